use crate::color::blend;
use crate::feature::Feature;
use crate::shape::{Oval, Point, Shape, blob, disc, line};
use crate::sketch::Sketch;

/// The control points of the right wings around their own centres, on a butterfly whose middle is at (0, 0).
const UPPER: ((f32, f32), [Point; 7]) = (
    (22.0, -20.0),
    [(-20.0, 14.0), (-12.0, -8.0), (8.0, -24.0), (22.0, -18.0), (20.0, 6.0), (8.0, 22.0), (-12.0, 26.0)],
);
const LOWER: ((f32, f32), [Point; 6]) =
    ((18.0, 18.0), [(-16.0, -18.0), (2.0, -20.0), (18.0, -12.0), (16.0, 8.0), (4.0, 20.0), (-10.0, 10.0)]);

/// A butterfly with its four wings spread.
pub(crate) fn draw(s: &mut Sketch) {
    let build = &s.monster.build;
    let (width, height) = (0.90 * build.width, 0.95 * build.height);
    let head = Oval::new(50.0, 38.0, 11.5 * build.head, 10.5 * build.head);
    let at = |side: f32, (x, y): Point| (50.0 + side * x * width, 50.0 + y * height);
    let wing = |side: f32, (x, y): Point, around: &[Point], size: f32| {
        let points: Vec<Point> = around.iter().map(|(u, v)| at(side, (x + size * u, y + size * v))).collect();
        blob(&points)
    };
    let upper = |size: f32| [-1.0, 1.0].map(|side| wing(side, UPPER.0, &UPPER.1, size));
    let lower = |size: f32| [-1.0, 1.0].map(|side| wing(side, LOWER.0, &LOWER.1, size));

    s.part(s.skin, &lower(1.0));
    s.part(s.skin, &upper(1.0));
    match s.monster.feature {
        Feature::Spots(_) => {
            let spots = [(27.0, -25.0, 5.2), (33.0, -10.0, 4.0), (18.0, -10.0, 3.8), (22.0, 17.0, 5.2)];
            mark(s, |side| spots.map(|(x, y, radius)| disc(at(side, (x, y)), radius)).into());
        }
        Feature::Stripes(_) => {
            let stripes = [
                [(16.0, -20.0), (22.0, -12.0), (20.0, 0.0)],
                [(26.0, -28.0), (33.0, -16.0), (30.0, -2.0)],
                [(14.0, 12.0), (20.0, 18.0), (18.0, 28.0)],
            ];
            mark(s, |side| stripes.map(|points| line(&points.map(|point| at(side, point)), 3.2)).into());
        }
        _ => {
            let inside = blend(s.skin, s.shade, 0.7);
            s.fill(inside, &lower(0.6));
            s.fill(inside, &upper(0.62));
        }
    }

    for side in [-1.0, 1.0] {
        let tip = head.at(side * 0.95, -2.0);
        s.scribble(&[head.at(side * 0.3, -0.8), head.at(side * 0.4, -1.6), tip], 1.6);
        s.fill(s.ink, &[disc(tip, 2.0)]);
    }
    s.part(blend(s.skin, s.ink, 0.45), &[Oval::new(50.0, 62.0, 5.5, 18.0).shape()]);
    s.part(s.pale, &[head.shape()]);
    s.face(head.at(0.0, -0.1), head.rx * 0.92, 3.3);
    s.headwear(head.at(0.0, -0.95), 5.0, 0.85);
}

/// Draws the marks of the left wings (side -1) and of the right wings (1).
fn mark(s: &mut Sketch, marks: impl Fn(f32) -> Vec<Shape>) {
    let accent = s.accent;
    s.fill(accent, &marks(-1.0));
    s.fill(accent, &marks(1.0));
}
