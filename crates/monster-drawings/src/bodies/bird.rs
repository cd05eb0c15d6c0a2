use crate::color::{Color, Rgb};
use crate::face::MOUTH;
use crate::feature::Feature;
use crate::monster::Expression;
use crate::shape::{Oval, line, petal, polygon};
use crate::sketch::Sketch;

const BEAK: Rgb = [250, 176, 48];
const BEAK_ON_ORANGE: Rgb = [255, 224, 110];

/// A plump bird in profile: a beak to the left, tail feathers to the right, two thin legs.
pub(crate) fn draw(s: &mut Sketch) {
    let build = &s.monster.build;
    let body = Oval::new(48.0, 57.0, 24.5 * build.width, 23.5 * build.height);
    let beak = if s.monster.color == Color::Orange { BEAK_ON_ORANGE } else { BEAK };
    let winged = matches!(s.monster.feature, Feature::Wings(_));

    if winged {
        s.wing(s.accent, body.at(0.0, -0.4), 1.0, 1.05);
    }
    let feather = |y: f32, tip| petal(body.at(0.6, y), tip, 5.0);
    let tail = [
        feather(0.1, body.at(1.68, -0.55)),
        feather(0.2, body.at(1.76, -0.05)),
        feather(0.3, body.at(1.62, 0.4)),
    ];
    s.part(s.skin, &tail);
    for x in [44.0, 58.0] {
        let leg = line(&[(x, 76.0), (x, 88.0)], 1.6);
        let toes = line(&[(x - 7.0, 89.0), (x, 87.5), (x + 6.0, 89.0)], 1.6);
        s.part(beak, &[leg, toes]);
    }
    if !s.monster.feature.is_headwear() {
        let (x, y) = body.at(-0.15, -0.9);
        let feather = |dx: f32, dy: f32| petal((x, y), (x + dx, y + dy), 2.7);
        s.part(s.skin, &[feather(-6.0, -10.0), feather(2.0, -13.0), feather(9.0, -9.0)]);
    }
    s.round(body);
    s.belly(body.inner(-0.28, 0.42, 0.58, 0.5));
    s.pattern(body.inner(0.04, 0.1, 0.96, 0.8));
    if winged {
        s.wing(s.accent, body.at(0.25, 0.1), 1.0, 1.15);
    } else {
        s.part(s.shade, &[petal(body.at(-0.05, -0.1), body.at(0.92, 0.5), 10.0)]);
    }

    let open = s.monster.expression == Expression::MouthOpen;
    let drop = if open { 8.0 } else { 2.0 };
    let at = |dx: f32, dy: f32| {
        let (x, y) = body.at(-0.84, -0.12);
        (x + dx, y + dy)
    };
    if open {
        s.part(MOUTH, &[polygon(&[at(0.0, -4.0), at(-8.0, 2.0), at(-7.0, drop), at(2.0, 7.0)])]);
    }
    s.part(beak, &[polygon(&[at(2.0, 1.0), at(-9.0, 1.0 + drop), at(2.0, 5.0 + drop)])]);
    s.part(beak, &[polygon(&[at(2.0, -6.0), at(-15.0, 1.0), at(3.0, 3.5)])]);
    s.eye(body.at(-0.42, -0.36), 5.4);
    s.blush(body.at(-0.34, 0.06), 5.6);
    s.headwear(body.at(-0.1, -0.95), 8.0, 1.0);
}
