use crate::color::{Color, Rgb, blend};
use crate::feature::Feature;
use crate::shape::{Point, arcs, disc, line, petal, polygon};
use crate::sketch::Sketch;

const GOLD: Rgb = [255, 205, 58];
const IVORY: Rgb = [250, 240, 214];
const LEAF: Rgb = [96, 190, 76];
const ORANGE: Rgb = [250, 120, 36];
const RUBY: Rgb = [230, 60, 80];
const WHITE: Rgb = [255, 255, 255];

impl Sketch<'_> {
    /// The feature on top of the monster's head, at a point. `reach` is the distance of horns to either side,
    /// and `size` is 1 for a head about 40 wide.
    pub(crate) fn headwear(&mut self, (x, y): Point, reach: f32, size: f32) {
        let at = |u: f32, v: f32| (x + size * u, y + size * v);
        let trim = blend(self.accent, WHITE, 0.75);
        match self.monster.feature {
            Feature::Leaf => {
                let stem = at(0.0, 0.0);
                self.part(LEAF, &[petal(stem, at(-19.0, -11.0), 6.0), petal(stem, at(17.0, -14.0), 6.0)]);
                self.scribble(&[at(-1.0, 0.0), at(-13.0, -7.5)], 1.0);
                self.scribble(&[at(1.0, -1.0), at(11.5, -9.5)], 1.0);
            }
            Feature::Flower(_) => {
                let around = [(0.0, -9.6), (5.3, -5.7), (3.3, 0.5), (-3.3, 0.5), (-5.3, -5.7)];
                let heart =
                    if self.monster.feature == Feature::Flower(Color::Yellow) { ORANGE } else { GOLD };
                self.part(self.accent, &around.map(|(u, v)| disc(at(u, v), 4.3 * size)));
                self.fill(heart, &[disc(at(0.0, -4.0), 3.7 * size)]);
            }
            Feature::Hat(_) => {
                let cone = [(-11.0, 0.0), (-5.0, -8.0), (3.0, -20.0), (6.0, -8.0), (11.0, 0.0), (0.0, 4.0)];
                self.part(self.accent, &[arcs(&cone.map(|(u, v)| at(u, v)))]);
                self.part(trim, &[line(&[at(-11.5, -0.5), at(0.0, 3.5), at(11.5, -0.5)], 4.0 * size)]);
                self.part(trim, &[disc(at(3.0, -20.0), 3.4 * size)]);
            }
            Feature::Crown => {
                let spikes = [
                    (-11.0, 2.0),
                    (-12.5, -11.0),
                    (-5.5, -5.0),
                    (0.0, -14.0),
                    (5.5, -5.0),
                    (12.5, -11.0),
                    (11.0, 2.0),
                ];
                self.part(GOLD, &[polygon(&spikes.map(|(u, v)| at(u, v)))]);
                self.fill(RUBY, &[disc(at(0.0, -3.0), 2.2 * size)]);
            }
            Feature::Horns => {
                for side in [-1.0, 1.0] {
                    let at = |u: f32, v: f32| (x + side * (reach + size * u), y + size * v);
                    let horn = [
                        at(-4.0, 3.0),
                        at(-2.0, -8.0),
                        at(5.5, -15.0),
                        at(9.0, -4.0),
                        at(4.5, 5.0),
                        at(0.0, 6.0),
                    ];
                    self.part(IVORY, &[arcs(&horn)]);
                }
            }
            _ => {}
        }
    }
}
