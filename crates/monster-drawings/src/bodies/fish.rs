use crate::feature::Feature;
use crate::shape::{Oval, arcs, disc, petal};
use crate::sketch::Sketch;

/// A fish in profile, looking to the left: a forked tail, a fin above, one below and one on its side.
pub(crate) fn draw(s: &mut Sketch) {
    let build = &s.monster.build;
    let body = Oval::new(43.5, 58.0, 26.5 * build.width, 20.5 * build.height);
    let winged = matches!(s.monster.feature, Feature::Wings(_));

    if winged {
        s.wing(s.accent, body.at(-0.3, -0.4), 1.0, 0.9);
    }
    let tail = [
        body.at(0.78, 0.0),
        body.at(1.15, -0.9),
        body.at(1.64, -1.15),
        body.at(1.55, -0.4),
        body.at(1.38, 0.0),
        body.at(1.55, 0.4),
        body.at(1.64, 1.15),
        body.at(1.15, 0.9),
    ];
    let back_fin = [
        body.at(-0.35, -0.75),
        body.at(-0.1, -1.6),
        body.at(0.62, -1.5),
        body.at(0.42, -1.0),
        body.at(0.62, -0.6),
        body.at(0.1, -0.8),
    ];
    s.part(s.shade, &[arcs(&tail)]);
    s.scribble(&[body.at(1.15, -0.15), body.at(1.5, -0.7)], 1.2);
    s.scribble(&[body.at(1.15, 0.15), body.at(1.5, 0.7)], 1.2);
    s.part(s.shade, &[arcs(&back_fin)]);
    s.part(s.shade, &[petal(body.at(0.05, 0.8), body.at(0.42, 1.45), 5.0)]);

    s.round(body);
    s.belly(body.inner(-0.05, 0.5, 0.72, 0.4));
    s.pattern(body.inner(0.2, 0.0, 0.8, 0.86));
    if winged {
        s.wing(s.accent, body.at(0.0, 0.1), 1.0, 1.1);
    } else {
        s.part(s.shade, &[petal(body.at(0.0, 0.25), body.at(0.48, 0.62), 5.5)]);
    }
    s.scribble(&[body.at(-0.22, -0.55), body.at(-0.02, 0.0), body.at(-0.22, 0.5)], 1.6);
    s.eye(body.at(-0.52, -0.22), 6.0);
    s.blush(body.at(-0.5, 0.26), 5.6);
    s.mouth(body.at(-0.74, 0.34), 5.6);
    for (bubble, radius) in [((11.0, 40.0), 3.2), ((18.0, 29.0), 2.4), ((12.0, 20.0), 1.8)] {
        s.fill([128, 190, 232], &[disc(bubble, radius)]);
        s.fill([232, 246, 255], &[disc(bubble, radius - 1.1)]);
    }
    s.headwear(body.at(-0.35, -0.93), 7.0, 0.95);
}
