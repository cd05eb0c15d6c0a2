use crate::color::blend;
use crate::feature::Feature;
use crate::shape::{Oval, arcs, oval_between, petal, polygon};
use crate::sketch::Sketch;

/// A turtle that walks to the left: a big head, four stubby legs, a domed shell on its back.
pub(crate) fn draw(s: &mut Sketch) {
    let build = &s.monster.build;
    let head = Oval::new(28.0, 50.0, 18.5 * build.head, 17.0 * build.head);
    let body = Oval::new(55.0, 70.0, 26.0 * build.width, 12.5);
    let dome = Oval::new(59.0, 66.0, 22.5 * build.width, 25.0 * build.height);
    let shell = match s.monster.feature {
        Feature::Shell(_) => s.accent,
        _ => blend(s.skin, [70, 40, 50], 0.42),
    };

    let tail = petal(body.at(0.75, 0.1), body.at(1.4, 0.35), 5.0);
    let far_legs = [((46.0, 66.0), (45.0, 87.0)), ((69.0, 66.0), (72.0, 87.0))];
    let near_legs = [((36.0, 64.0), (34.0, 90.0)), ((62.0, 64.0), (60.0, 90.0))];
    let neck = oval_between(head.at(0.2, 0.4), (46.0, 73.0), 8.5);
    let [front, back] = near_legs.map(|(hip, foot)| oval_between(hip, foot, 7.8));
    s.part(s.skin, &[tail]);
    s.part(s.shade, &far_legs.map(|(hip, foot)| oval_between(hip, foot, 6.5)));
    s.part(s.skin, &[body.shape(), front, back, neck]);

    let outline = [
        dome.at(-1.0, 0.0),
        dome.at(-1.0, -0.75),
        dome.at(-0.3, -1.0),
        dome.at(0.1, -1.12),
        dome.at(0.5, -0.9),
        dome.at(1.0, -0.6),
        dome.at(1.0, 0.0),
        dome.at(0.0, 0.28),
    ];
    let plate = [(-0.34, -0.5), (-0.1, -0.8), (0.34, -0.8), (0.58, -0.5), (0.34, -0.16), (-0.1, -0.16)];
    let rim = [(-0.9, -0.5), (-0.35, -0.98), (0.52, -0.9), (0.92, -0.45), (0.55, 0.1), (-0.25, 0.12)];
    s.part(shell, &[arcs(&outline)]);
    s.fill(blend(shell, [255, 255, 255], 0.35), &[polygon(&plate.map(|(u, v)| dome.at(u, v)))]);
    for (corner, edge) in plate.into_iter().zip(rim) {
        s.scribble(&[dome.at(corner.0, corner.1), dome.at(edge.0, edge.1)], 1.2);
    }
    s.round(head);
    s.face(head.at(-0.14, 0.0), head.rx * 0.95, 5.0);
    s.headwear(head.at(0.0, -0.95), 8.0, 1.0);
}
