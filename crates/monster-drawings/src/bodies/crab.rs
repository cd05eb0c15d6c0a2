use crate::shape::{Oval, arcs, disc, line};
use crate::sketch::Sketch;

/// A crab seen from the front: a wide body, eyes on stalks, six legs and two raised claws.
pub(crate) fn draw(s: &mut Sketch) {
    let build = &s.monster.build;
    let body = Oval::new(50.0, 67.0, 25.0 * build.width, 16.5 * build.height);
    let eyes = [-1.0, 1.0].map(|side: f32| (50.0 + side * 14.5 * build.width, 42.0));
    let spread = 0.37 + 0.57 * build.width;

    for side in [-1.0, 1.0] {
        let at = |x: f32, y: f32| (50.0 + side * x * spread, y);
        let legs = [
            line(&[at(20.0, 73.0), at(34.0, 69.0), at(38.0, 82.0)], 4.2),
            line(&[at(17.0, 78.0), at(28.0, 77.0), at(31.0, 88.0)], 4.2),
            line(&[at(12.0, 81.0), at(18.0, 83.0), at(20.0, 90.0)], 4.2),
        ];
        let arm = line(&[at(20.0, 62.0), at(36.0, 60.0), at(34.0, 42.0)], 5.5);
        let claw = [
            at(34.0, 45.0),
            at(19.0, 40.0),
            at(26.0, 15.0),
            at(26.0, 27.0),
            at(33.0, 31.0),
            at(39.0, 25.0),
            at(37.0, 14.0),
            at(49.0, 38.0),
        ];
        s.part(s.shade, &legs);
        s.part(s.skin, &[arm]);
        s.part(s.skin, &[arcs(&claw)]);
    }
    for (x, y) in eyes {
        s.part(s.skin, &[line(&[(x, 56.0), (x, y)], 3.6)]);
    }
    s.round(body);
    s.pattern(body);
    for eye in eyes {
        s.part(s.skin, &[disc(eye, 6.6)]);
        s.eye(eye, 4.8);
    }
    s.blush(body.at(-0.55, -0.05), 6.0);
    s.blush(body.at(0.55, -0.05), 6.0);
    s.mouth(body.at(0.0, -0.1), 8.5);
    s.headwear(body.at(0.0, -0.98), 5.0, 0.78);
}
