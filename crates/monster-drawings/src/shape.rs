use tiny_skia::{Path, PathBuilder, Rect, Transform};

/// A point on the drawing board, which is 100 wide and 100 high; y points down.
pub(crate) type Point = (f32, f32);

/// A shape to fill, or a line to draw with some width.
///
/// All curves are quadratic: they are rasterised with exactly rounded operations alone, so a picture has the
/// same pixels on every machine (cubic outlines would depend on the platform's trigonometry).
pub(crate) enum Shape {
    /// An ellipse, turned and moved.
    Oval(Oval, Transform),
    /// The inside of a closed path.
    Area(Path),
    /// A line of some width.
    Line(Path, f32),
    /// Nothing: the result for a path without extent.
    Empty,
}

impl Shape {
    fn area(path: PathBuilder) -> Self {
        path.finish().map_or(Self::Empty, Self::Area)
    }
}

/// An upright ellipse, and the frame of reference for drawing on it: (-1, 0) is its left end, (0, -1) its
/// top.
#[derive(Clone, Copy)]
pub(crate) struct Oval {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) rx: f32,
    pub(crate) ry: f32,
}

impl Oval {
    pub(crate) fn new(x: f32, y: f32, rx: f32, ry: f32) -> Self {
        Self { x, y, rx, ry }
    }

    /// The point at `(u, v)` in units of the two radii.
    pub(crate) fn at(self, u: f32, v: f32) -> Point {
        (self.x + u * self.rx, self.y + v * self.ry)
    }

    /// A smaller oval on this one: its centre at `(u, v)`, its radii `(a, b)`, all in units of this one's radii.
    pub(crate) fn inner(self, u: f32, v: f32, a: f32, b: f32) -> Self {
        let (x, y) = self.at(u, v);
        Self { x, y, rx: a * self.rx, ry: b * self.ry }
    }

    pub(crate) fn shape(self) -> Shape {
        Shape::Oval(self, Transform::identity())
    }

    /// The outline of the oval with `margin` added all around.
    pub(crate) fn path(self, margin: f32) -> Option<Path> {
        let (rx, ry) = (self.rx + margin, self.ry + margin);
        Rect::from_xywh(self.x - rx, self.y - ry, 2.0 * rx, 2.0 * ry).and_then(PathBuilder::from_oval)
    }

    /// The shaded part of the oval, with the light from the upper left: a crescent along the lower right.
    pub(crate) fn crescent(self) -> Shape {
        let mut path = PathBuilder::new();
        let to = |path: &mut PathBuilder, control: Point, end: Point| {
            let ((a, b), (c, d)) = (self.at(control.0, control.1), self.at(end.0, end.1));
            path.quad_to(a, b, c, d);
        };
        let (x, y) = self.at(0.96, -0.28);
        path.move_to(x, y);
        to(&mut path, (1.04, 0.10), (0.87, 0.49));
        to(&mut path, (0.64, 0.92), (0.16, 0.987));
        to(&mut path, (-0.36, 1.02), (-0.72, 0.69));
        to(&mut path, (0.66, 0.93), (0.96, -0.28));
        Shape::area(path)
    }
}

/// A filled circle.
pub(crate) fn disc((x, y): Point, radius: f32) -> Shape {
    Oval::new(x, y, radius, radius).shape()
}

/// An ellipse whose long axis runs from `a` to `b`.
pub(crate) fn oval_between(a: Point, b: Point, half_width: f32) -> Shape {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length = (dx * dx + dy * dy).sqrt();
    let (cos, sin) = (dx / length, dy / length);
    let level = Oval::new(length / 2.0, 0.0, length / 2.0, half_width);
    Shape::Oval(level, Transform::from_row(cos, sin, -sin, cos, a.0, a.1))
}

/// An almond shape with points at `a` and `b`, `bulge` wide on either side of the line between them.
pub(crate) fn petal(a: Point, b: Point, bulge: f32) -> Shape {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let reach = 2.0 * bulge / (dx * dx + dy * dy).sqrt();
    let (x, y) = ((a.0 + b.0) / 2.0, (a.1 + b.1) / 2.0);
    let mut path = PathBuilder::new();
    path.move_to(a.0, a.1);
    path.quad_to(x - reach * dy, y + reach * dx, b.0, b.1);
    path.quad_to(x + reach * dy, y - reach * dx, a.0, a.1);
    path.close();
    Shape::area(path)
}

/// A closed smooth curve inside the polygon of `points`: it touches the middle of every side.
pub(crate) fn blob(points: &[Point]) -> Shape {
    let middle = |a: Point, b: Point| ((a.0 + b.0) / 2.0, (a.1 + b.1) / 2.0);
    let mut path = PathBuilder::new();
    for (i, &point) in points.iter().enumerate() {
        let next = points[(i + 1) % points.len()];
        let end = middle(point, next);
        if i == 0 {
            let start = middle(points[points.len() - 1], point);
            path.move_to(start.0, start.1);
        }
        path.quad_to(point.0, point.1, end.0, end.1);
    }
    path.close();
    Shape::area(path)
}

/// A closed polygon with straight sides.
pub(crate) fn polygon(points: &[Point]) -> Shape {
    let mut path = PathBuilder::new();
    for (i, &(x, y)) in points.iter().enumerate() {
        if i == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
    }
    path.close();
    Shape::area(path)
}

/// A closed polygon of arcs. Points and control points alternate (point, control, point, control, ...): each
/// arc goes from a point to the next one, bent towards the control point between them.
pub(crate) fn arcs(points: &[Point]) -> Shape {
    let mut path = PathBuilder::new();
    path.move_to(points[0].0, points[0].1);
    for (i, control) in points.iter().enumerate().skip(1).step_by(2) {
        let end = points[(i + 1) % points.len()];
        path.quad_to(control.0, control.1, end.0, end.1);
    }
    path.close();
    Shape::area(path)
}

/// A smooth line from the first of `points` to the last, bent towards the points between them.
pub(crate) fn line(points: &[Point], width: f32) -> Shape {
    let mut path = PathBuilder::new();
    let last = points.len() - 1;
    path.move_to(points[0].0, points[0].1);
    for i in 1..last {
        let (control, next) = (points[i], points[i + 1]);
        let end = if i + 1 == last { next } else { ((control.0 + next.0) / 2.0, (control.1 + next.1) / 2.0) };
        path.quad_to(control.0, control.1, end.0, end.1);
    }
    if last == 1 {
        path.line_to(points[1].0, points[1].1);
    }
    path.finish().map_or(Shape::Empty, |path| Shape::Line(path, width))
}
