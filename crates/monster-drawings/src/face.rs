use crate::color::{Rgb, blend};
use crate::monster::Expression;
use crate::shape::{Oval, Point, arcs, line};
use crate::sketch::Sketch;

const WHITE: Rgb = [255, 255, 255];
const PUPIL: Rgb = [36, 30, 44];
/// The colour of the inside of a mouth.
pub(crate) const MOUTH: Rgb = [122, 34, 48];
const TONGUE: Rgb = [238, 120, 130];
const BLUSH: Rgb = [246, 124, 134];

impl Sketch<'_> {
    /// A face seen from the front: two eyes `apart` from each other and, between and below them, a mouth.
    pub(crate) fn face(&mut self, middle: Point, apart: f32, size: f32) {
        let (x, y) = middle;
        self.eye((x - apart / 2.0, y), size);
        self.eye((x + apart / 2.0, y), size);
        self.blush((x - apart * 0.82, y + size * 1.35), size);
        self.blush((x + apart * 0.82, y + size * 1.35), size);
        self.mouth((x, y + size * 1.55), size * 1.25);
    }

    /// One eye, `size` high from its middle up.
    pub(crate) fn eye(&mut self, (x, y): Point, size: f32) {
        let size = size * self.monster.build.eyes;
        if self.monster.expression == Expression::EyesClosed {
            let lid = [(x - size, y), (x, y + size * 1.2), (x + size, y)];
            return self.fill(PUPIL, &[line(&lid, 2.2)]);
        }
        let whole = Oval::new(x, y, size * 0.78, size);
        if self.monster.build.round_eyes {
            let white = Oval::new(x, y, size * 1.05, size * 1.15);
            self.fill(PUPIL, &[white.inner(0.0, 0.0, 1.2, 1.2).shape()]);
            self.fill(WHITE, &[white.shape()]);
            self.fill(PUPIL, &[whole.inner(0.1, 0.15, 0.75, 0.78).shape()]);
            self.fill(WHITE, &[whole.inner(-0.2, -0.25, 0.3, 0.28).shape()]);
        } else {
            self.fill(PUPIL, &[whole.shape()]);
            self.fill(WHITE, &[whole.inner(-0.25, -0.4, 0.42, 0.38).shape()]);
        }
    }

    /// A mouth with its middle at a point, `width` wide when it is open.
    pub(crate) fn mouth(&mut self, (x, y): Point, width: f32) {
        let half = width / 2.0;
        match self.monster.expression {
            Expression::MouthOpen => {
                let lips = |margin: f32| {
                    let (u, top, deep) = (half + margin, y - half * 0.4 - margin, y + width * 1.05 + margin);
                    arcs(&[
                        (x - u, top),
                        (x, top + half * 0.3),
                        (x + u, top),
                        (x + u, deep),
                        (x, deep),
                        (x - u, deep),
                    ])
                };
                self.fill(PUPIL, &[lips(1.3)]);
                self.fill(MOUTH, &[lips(0.0)]);
                self.fill(TONGUE, &[Oval::new(x, y + width * 0.62, half * 0.6, half * 0.42).shape()]);
            }
            Expression::Smiling => {
                let (wide, deep) = (width * 0.9, width * 0.8);
                let lips = [(x - wide, y - deep * 0.4), (x, y + deep), (x + wide, y - deep * 0.4)];
                self.fill(PUPIL, &[line(&lips, 2.1)]);
            }
            Expression::Calm | Expression::EyesClosed => {
                let lips = [(x - half * 0.6, y), (x, y + half * 0.5), (x + half * 0.6, y)];
                self.fill(PUPIL, &[line(&lips, 1.7)]);
            }
        }
    }

    /// A rosy cheek, for creatures that have them.
    pub(crate) fn blush(&mut self, (x, y): Point, size: f32) {
        if self.monster.build.cheeks {
            let rosy = blend(self.skin, BLUSH, 0.6);
            self.fill(rosy, &[Oval::new(x, y, size * 0.62, size * 0.42).shape()]);
        }
    }
}
