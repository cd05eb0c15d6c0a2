use crate::color::Rgb;
use crate::feature::Feature;
use crate::shape::{Oval, Point, Shape, arcs, blob, disc, polygon};
use crate::sketch::Sketch;

const FIRE: Rgb = [250, 120, 36];
const EMBER: Rgb = [255, 222, 84];

impl Sketch<'_> {
    /// Wings behind the body, one on either side, rooted at the two points.
    pub(crate) fn wings(&mut self, left: Point, right: Point) {
        if let Feature::Wings(_) = self.monster.feature {
            let accent = self.accent;
            self.wing(accent, left, -1.0, 1.0);
            self.wing(accent, right, 1.0, 1.0);
        }
    }

    /// One wing, spread to the left (`side` -1) or to the right (1).
    pub(crate) fn wing(&mut self, color: Rgb, (x, y): Point, side: f32, size: f32) {
        let at = |u: f32, v: f32| (x + side * size * u, y + size * v);
        let outline = [
            at(0.0, 4.0),
            at(2.0, -18.0),
            at(26.0, -28.0),
            at(34.0, -16.0),
            at(29.0, -8.0),
            at(32.0, -2.0),
            at(22.0, 0.0),
            at(20.0, 8.0),
            at(12.0, 6.0),
            at(8.0, 12.0),
        ];
        self.part(color, &[arcs(&outline)]);
        self.scribble(&[at(9.0, -4.0), at(18.0, -10.0), at(25.0, -18.0)], 1.2 * size);
        self.scribble(&[at(9.0, -1.0), at(15.0, -4.0), at(22.0, -6.0)], 1.2 * size);
    }

    /// A flame, if the monster has one, at the tip of its tail.
    pub(crate) fn flame(&mut self, (x, y): Point) {
        if self.monster.feature == Feature::Flame {
            let tongue = |s: f32| {
                let at = |u: f32, v: f32| (x + u * s, y + v * s);
                blob(&[
                    at(0.0, 5.0),
                    at(9.0, 4.0),
                    at(9.0, -7.0),
                    at(3.0, -11.0),
                    at(2.0, -22.0),
                    at(-3.0, -14.0),
                    at(-9.0, -7.0),
                    at(-9.0, 4.0),
                ])
            };
            self.part(FIRE, &[tongue(1.0)]);
            self.fill(EMBER, &[tongue(0.55)]);
        }
    }

    /// Spots all over a rounded part of the body, or stripes across its longer side.
    pub(crate) fn pattern(&mut self, oval: Oval) {
        const SPOTS: [(f32, f32, f32); 6] = [
            (-0.62, -0.28, 0.2),
            (0.42, -0.58, 0.2),
            (0.1, 0.0, 0.17),
            (-0.34, 0.56, 0.2),
            (0.62, 0.2, 0.22),
            (0.26, 0.7, 0.14),
        ];
        let shapes: Vec<Shape> = match self.monster.feature {
            Feature::Spots(_) => {
                SPOTS.map(|(u, v, r)| disc(oval.at(u, v), r * (oval.rx + oval.ry) / 2.0)).into()
            }
            Feature::Stripes(_) => [-0.55, 0.0, 0.55].map(|middle| stripe(oval, middle)).into(),
            _ => return,
        };
        self.fill(self.accent, &shapes);
    }

    /// Spots or stripes on the upper rim of a head seen from the front.
    pub(crate) fn pattern_above_face(&mut self, head: Oval) {
        let shapes: [Shape; 3] = match self.monster.feature {
            Feature::Spots(_) => [(-0.6, -0.56, 3.2), (0.04, -0.74, 3.6), (0.64, -0.5, 3.4)]
                .map(|(u, v, r)| disc(head.at(u, v), r)),
            Feature::Stripes(_) => [(-0.36, -0.55), (0.0, -0.46), (0.36, -0.55)].map(|(u, v): (f32, f32)| {
                let rim = |u: f32| head.at(u, -0.96 * (1.0 - u * u).sqrt());
                polygon(&[rim(u - 0.11), head.at(u * 0.8, v), rim(u + 0.11)])
            }),
            _ => return,
        };
        self.fill(self.accent, &shapes);
    }

    /// A belly of another colour, if the monster has one.
    pub(crate) fn belly(&mut self, oval: Oval) {
        if let Feature::Belly(_) = self.monster.feature {
            self.fill(self.accent, &[oval.shape()]);
        }
    }
}

/// A band across an oval from rim to rim, bent as on a round body; `middle` (-1 to 1) is its position on the
/// longer axis.
fn stripe(oval: Oval, middle: f32) -> Shape {
    const HALF_WIDTH: f32 = 0.12;
    const BEND: f32 = 0.2;
    let at = |along: f32, across: f32| {
        if oval.rx > oval.ry { oval.at(along, across) } else { oval.at(across, along) }
    };
    let (low, high) = (middle - HALF_WIDTH, middle + HALF_WIDTH);
    let rim = |along: f32| 0.97 * (1.0 - along * along).sqrt();
    let edge = (rim(low) + rim(high)) / 2.0;
    arcs(&[
        at(low, -rim(low)),
        at(low + BEND, 0.0),
        at(low, rim(low)),
        at(middle, edge),
        at(high, rim(high)),
        at(high + BEND, 0.0),
        at(high, -rim(high)),
        at(middle, -edge),
    ])
}
