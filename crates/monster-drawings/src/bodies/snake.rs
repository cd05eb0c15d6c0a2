use crate::shape::{Oval, blob, line};
use crate::sketch::Sketch;

/// A coiled snake: the head held high, a forked tongue, the tip of the tail beside it.
pub(crate) fn draw(s: &mut Sketch) {
    let build = &s.monster.build;
    let low = Oval::new(46.0, 80.0, 28.0 * build.width, 10.0);
    let middle = Oval::new(48.0, 67.0, 21.0 * build.width, 9.5);
    let head = Oval::new(41.0, 34.0, 18.0 * build.head, 14.0 * build.head);

    s.wings((50.0, 52.0), (58.0, 54.0));
    let tail = [
        (58.0, 76.0),
        (74.0, 80.0),
        (82.0, 74.0),
        (81.0, 62.0),
        (86.5, 54.0),
        (89.5, 72.0),
        (84.0, 88.0),
        (58.0, 91.0),
    ];
    s.part(s.skin, &[blob(&tail)]);
    s.flame((84.5, 60.0));
    s.round(low);
    s.pattern(low);
    s.part(s.skin, &[line(&[(56.0, 66.0), (72.0, 54.0), (58.0, 42.0), (46.0, 38.0)], 13.5)]);
    s.round(middle);
    s.pattern(middle);

    let fork = head.at(-1.32, 0.72);
    let tongue = [
        line(&[head.at(-0.8, 0.5), fork], 2.2),
        line(&[fork, head.at(-1.6, 0.65)], 1.8),
        line(&[fork, head.at(-1.5, 1.05)], 1.8),
    ];
    s.fill([226, 60, 84], &tongue);
    s.round(head);
    s.pattern_above_face(head);
    s.face(head.at(-0.15, -0.08), head.rx * 0.95, 5.0);
    s.headwear(head.at(0.0, -0.96), 8.0, 0.8);
}
