use crate::shape::{Oval, line, polygon};
use crate::sketch::Sketch;

/// A cat that sits, seen from the front: pointed ears, whiskers, a tail that stands up beside it.
pub(crate) fn draw(s: &mut Sketch) {
    let build = &s.monster.build;
    let body = Oval::new(50.0, 70.0, 17.0 * build.width, 18.0 * build.height);
    let head = Oval::new(50.0, 42.0, 24.0 * build.head, 19.5 * build.head);
    let paws = [40.0, 60.0].map(|x| Oval::new(x, 86.0, 8.5, 4.5));
    let tip = (84.0, 52.0);

    s.wings(body.at(-0.6, -0.4), body.at(0.6, -0.4));
    s.part(s.skin, &[line(&[(60.0, 83.0), (80.0, 88.0), (80.0, 66.0), tip], 7.5)]);
    s.flame(tip);
    s.part(s.skin, &[body.shape(), paws[0].shape(), paws[1].shape()]);
    s.fill(s.shade, &[body.crescent()]);
    s.belly(body.inner(0.0, 0.1, 0.62, 0.72));
    s.pattern(body);
    s.scribble(&[(50.0, 76.0), (50.0, 88.0)], 1.4);

    let ears = [-1.0, 1.0].map(|side| {
        polygon(&[head.at(side * 0.97, -0.15), head.at(side * 0.92, -1.5), head.at(side * 0.2, -0.9)])
    });
    let inner_ears = [-1.0, 1.0].map(|side| {
        polygon(&[head.at(side * 0.86, -0.55), head.at(side * 0.83, -1.18), head.at(side * 0.46, -0.85)])
    });
    let [left, right] = ears;
    s.part(s.skin, &[left, right, head.shape()]);
    s.fill(s.pale, &inner_ears);
    s.fill(s.shade, &[head.crescent()]);
    for side in [-1.0, 1.0] {
        s.scribble(&[head.at(side * 0.72, 0.34), head.at(side * 1.22, 0.22)], 1.2);
        s.scribble(&[head.at(side * 0.72, 0.50), head.at(side * 1.20, 0.58)], 1.2);
    }
    s.pattern_above_face(head);
    s.face(head.at(0.0, 0.1), head.rx * 0.95, 5.0);
    s.headwear(head.at(0.0, -0.78), 5.0, 0.9);
}
