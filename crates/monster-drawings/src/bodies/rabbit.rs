use crate::shape::{Oval, disc, oval_between};
use crate::sketch::Sketch;

/// A rabbit that sits upright: long ears, large feet, a white puff of a tail.
pub(crate) fn draw(s: &mut Sketch) {
    let build = &s.monster.build;
    let body = Oval::new(50.0, 73.0, 16.0 * build.width, 16.0 * build.height);
    let head = Oval::new(50.0, 50.0, 20.0 * build.head, 16.5 * build.head);
    let feet = [38.0, 62.0].map(|x| Oval::new(x, 87.0, 9.5, 4.6).shape());
    let arm = |side: f32| oval_between(body.at(side * 0.78, -0.6), body.at(side * 1.12, 0.22), 3.9);
    let ear = |side: f32, from: f32, to: f32, half_width: f32| {
        let along = |t: f32| head.at(side * (0.42 + 0.34 * t), -0.6 - 2.0 * t);
        oval_between(along(from), along(to), half_width)
    };

    s.wings(body.at(-0.6, -0.5), body.at(0.6, -0.5));
    s.part([252, 250, 248], &[disc(body.at(1.05, 0.45), 6.5)]);
    s.round(body);
    s.belly(body.inner(0.0, 0.1, 0.66, 0.78));
    s.pattern(body);
    s.part(s.skin, &[arm(-1.0)]);
    s.part(s.skin, &[arm(1.0)]);
    s.part(s.skin, &feet);

    s.part(s.skin, &[ear(-1.0, 0.0, 1.0, 6.8), ear(1.0, 0.0, 1.0, 6.8), head.shape()]);
    s.fill(s.pale, &[ear(-1.0, 0.22, 0.9, 3.4), ear(1.0, 0.22, 0.9, 3.4)]);
    s.fill(s.skin, &[head.inner(0.0, 0.0, 0.98, 0.98).shape()]);
    s.fill(s.shade, &[head.crescent()]);
    s.pattern_above_face(head);
    s.face(head.at(0.0, 0.02), head.rx * 0.95, 5.0);
    s.headwear(head.at(0.0, -0.85), 1.5, 0.85);
}
