use crate::feature::Feature;
use crate::shape::{Oval, Point, blob, disc, oval_between, polygon};
use crate::sketch::Sketch;

/// A young dragon that stands upright: a snout to the left, spikes down its back to a heavy tail, small wings.
pub(crate) fn draw(s: &mut Sketch) {
    let build = &s.monster.build;
    let body = Oval::new(48.0, 68.0, 17.5 * build.width, 19.5 * build.height);
    let belly = body.inner(-0.28, 0.08, 0.58, 0.78);
    let head = Oval::new(44.0, 36.0, 18.5 * build.head, 16.5 * build.head);
    let snout = head.inner(-0.72, 0.38, 0.68, 0.56);
    let feet = [37.0, 59.0].map(|x| Oval::new(x, 86.0, 9.5, 5.2));

    if let Feature::Wings(_) = s.monster.feature {
        s.wing(s.accent, body.at(-0.2, -0.4), -1.0, 1.0);
        s.wing(s.accent, body.at(0.5, -0.5), 1.0, 1.15);
    } else {
        s.wing(s.shade, body.at(0.7, -0.5), 1.0, 0.7);
    }
    let spike = |(x, y): Point, dx: f32, dy: f32| {
        polygon(&[(x - dy * 0.6, y + dx * 0.6), (x + dx, y + dy), (x + dy * 0.6, y - dx * 0.6)])
    };
    let spikes = [
        spike(head.at(0.35, -0.85), 4.0, -8.0),
        spike(head.at(0.86, -0.35), 8.5, -4.0),
        spike(head.at(0.9, 0.3), 8.5, 1.0),
        spike(body.at(1.0, 0.1), 8.0, -2.5),
        spike((76.0, 77.0), 3.0, -8.5),
    ];
    s.part(s.pale, &spikes);
    if s.monster.feature != Feature::Flame {
        s.part(s.pale, &[polygon(&[(79.5, 62.0), (87.0, 47.0), (94.0, 62.0), (87.0, 60.0)])]);
    }
    let tail = [
        (50.0, 70.0),
        (70.0, 80.0),
        (80.0, 76.0),
        (82.0, 62.0),
        (88.0, 55.0),
        (90.0, 70.0),
        (86.0, 86.0),
        (70.0, 92.0),
        (48.0, 88.0),
    ];
    s.part(s.skin, &[blob(&tail)]);
    s.flame((87.0, 62.0));
    s.part(s.skin, &[body.shape(), feet[0].shape(), feet[1].shape()]);
    s.fill(s.shade, &[body.crescent()]);
    s.fill(s.pale, &[belly.shape()]);
    s.belly(belly);
    for v in [-0.35, 0.12, 0.58] {
        s.scribble(&[belly.at(-0.72, v), belly.at(0.0, v + 0.16), belly.at(0.72, v)], 1.1);
    }
    s.part(s.skin, &[oval_between(body.at(-0.8, -0.45), body.at(-1.3, 0.1), 3.8)]);
    s.part(s.skin, &[oval_between(body.at(0.62, -0.4), body.at(0.3, 0.12), 3.8)]);

    s.part(s.skin, &[head.shape(), snout.shape()]);
    s.fill(s.shade, &[head.crescent()]);
    s.fill(s.skin, &[snout.inner(0.1, -0.1, 0.9, 0.88).shape()]);
    s.fill(s.ink, &[disc(snout.at(-0.62, -0.35), 1.3), disc(snout.at(-0.2, -0.45), 1.3)]);
    s.eye(head.at(-0.36, -0.22), 5.4);
    s.eye(head.at(0.36, -0.22), 5.4);
    s.blush(head.at(0.5, 0.3), 5.0);
    s.mouth(snout.at(-0.1, 0.42), 6.0);
    s.headwear(head.at(0.0, -0.9), 8.0, 0.84);
}
