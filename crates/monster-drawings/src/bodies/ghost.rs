use crate::shape::{Oval, arcs, oval_between};
use crate::sketch::Sketch;

/// A ghost that hovers: a dome with a wavy hem and two little arms.
pub(crate) fn draw(s: &mut Sketch) {
    let build = &s.monster.build;
    let body = Oval::new(50.0, 53.0, 23.5 * build.width, 27.5 * build.height);

    s.wings(body.at(-0.5, 0.0), body.at(0.5, 0.0));
    s.part(
        s.skin,
        &[-1.0, 1.0].map(|side| oval_between(body.at(side * 1.32, 0.22), body.at(side * 0.7, 0.1), 5.0)),
    );
    let cloth = [
        body.at(-1.0, 0.0),
        body.at(-1.0, -1.0),
        body.at(0.0, -1.0),
        body.at(1.0, -1.0),
        body.at(1.0, 0.0),
        body.at(1.0, 0.5),
        body.at(1.12, 0.98),
        body.at(0.92, 1.02),
        body.at(0.75, 0.78),
        body.at(0.6, 1.2),
        body.at(0.38, 1.12),
        body.at(0.2, 1.05),
        body.at(0.0, 0.82),
        body.at(-0.12, 1.2),
        body.at(-0.38, 1.12),
        body.at(-0.6, 1.05),
        body.at(-0.75, 0.78),
        body.at(-0.92, 1.1),
        body.at(-1.12, 0.98),
        body.at(-1.0, 0.5),
    ];
    let fold = [
        body.at(0.96, -0.2),
        body.at(1.0, 0.5),
        body.at(1.06, 0.92),
        body.at(0.85, 0.9),
        body.at(0.75, 0.74),
        body.at(0.86, 0.3),
    ];
    s.part(s.skin, &[arcs(&cloth)]);
    s.fill(s.shade, &[arcs(&fold)]);
    s.belly(body.inner(0.0, 0.42, 0.55, 0.36));
    s.pattern(body.inner(0.0, 0.35, 0.9, 0.5));
    s.face(body.at(0.0, -0.32), body.rx * 0.85, 6.0);
    s.headwear(body.at(0.0, -0.97), 9.0, 1.0);
}
