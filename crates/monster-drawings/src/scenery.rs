use crate::color::Rgb;
use crate::scene::Scene;
use crate::shape::{Oval, Point, disc, line, petal, polygon};
use crate::sketch::Sketch;

const SHADOW: Rgb = [236, 235, 240];
const MEADOW: Rgb = [158, 214, 110];
const BLADE: Rgb = [112, 182, 84];
const SEA: Rgb = [140, 204, 240];
const FOAM: Rgb = [204, 234, 250];
const CLOUD: Rgb = [238, 243, 250];
const CLOUD_EDGE: Rgb = [198, 210, 226];

impl Sketch<'_> {
    /// Draws the scenery behind the monster.
    pub(crate) fn backdrop(&mut self) {
        match self.monster.scene {
            Scene::Plain => {
                let width = if self.monster.creature.flies() { 17.0 } else { 30.0 };
                self.fill(SHADOW, &[Oval::new(50.0, 91.0, width, 4.0).shape()]);
            }
            Scene::Grass => {
                let tufts = |i: u8| {
                    let x = 10.0 + 10.0 * f32::from(i);
                    petal((x, 92.0), (x + 3.0, 74.0 + 3.0 * f32::from(i % 3)), 2.6)
                };
                self.fill(BLADE, &(0..9).map(tufts).collect::<Vec<_>>());
                self.fill(MEADOW, &[Oval::new(50.0, 96.0, 47.0, 13.0).shape()]);
            }
            Scene::Water => self.fill(SEA, &[Oval::new(50.0, 90.0, 56.0, 11.0).shape()]),
            Scene::Cloud => {
                let puffs = [
                    (17.0, 91.0, 10.0),
                    (34.0, 86.0, 12.0),
                    (54.0, 85.0, 13.0),
                    (72.0, 87.0, 11.0),
                    (84.0, 92.0, 9.0),
                ];
                self.fill(CLOUD_EDGE, &puffs.map(|(x, y, r)| disc((x, y), r + 1.8)));
                self.fill(CLOUD, &puffs.map(|(x, y, r)| disc((x, y), r)));
            }
        }
    }

    /// Draws the scenery in front of the monster's feet.
    pub(crate) fn foreground(&mut self) {
        match self.monster.scene {
            Scene::Plain => {}
            Scene::Grass => {
                let tufts = |i: u8| {
                    let x = 14.0 + 12.0 * f32::from(i);
                    let tip = (x - 3.0 + 2.0 * f32::from(i % 4), 83.0 + 3.0 * f32::from(i % 2));
                    petal((x, 99.0), tip, 2.4)
                };
                self.fill(BLADE, &(0..7).map(tufts).collect::<Vec<_>>());
            }
            Scene::Water => {
                let wave = |i: u8| (-6.0 + 8.0 * f32::from(i), if i.is_multiple_of(2) { 84.0 } else { 88.0 });
                let waves: Vec<Point> = (0..=14).map(wave).collect();
                let below = [(106.0, 104.0), (-6.0, 104.0)];
                self.fill(SEA, &[polygon(&[&waves[..], &below].concat())]);
                self.fill(FOAM, &[line(&waves, 2.0)]);
            }
            Scene::Cloud => {
                let puffs = [
                    (18.0, 95.0, 8.0),
                    (34.0, 97.0, 9.0),
                    (51.0, 96.0, 9.5),
                    (67.0, 97.0, 9.0),
                    (81.0, 95.0, 8.0),
                ];
                self.fill(CLOUD, &puffs.map(|(x, y, r)| disc((x, y), r)));
            }
        }
    }
}
