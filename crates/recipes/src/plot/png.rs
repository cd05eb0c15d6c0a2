//! The same picture in pixels: plotters' drawing calls on tiny-skia.

use std::convert::Infallible;
use std::io::Cursor;

use anyhow::{Context as _, Result};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
    text_anchor::{HPos, VPos},
};
use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, Rect, Stroke, Transform,
};

use super::letters;

/// Pixels for each unit of the picture, both ways: sharp on screens of high density and on paper.
const DENSITY: u32 = 2;

/// A canvas of pixels.
pub(super) struct Canvas {
    pixels: Pixmap,
    size: (u32, u32),
}

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

impl Canvas {
    pub(super) fn new(size: (u32, u32)) -> Result<Self> {
        let pixels = Pixmap::new(size.0 * DENSITY, size.1 * DENSITY).context("a picture needs a size")?;
        Ok(Self { pixels, size })
    }

    /// The picture as a PNG file.
    pub(super) fn png(&self) -> Result<Vec<u8>> {
        let (width, height) = (self.pixels.width(), self.pixels.height());
        let rgb: Vec<u8> = self
            .pixels
            .pixels()
            .iter()
            .flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()])
            .collect();
        let picture =
            image::RgbImage::from_raw(width, height, rgb).context("a picture needs all its pixels")?;
        let mut png = Vec::new();
        picture.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png)?;
        Ok(png)
    }

    fn fill(&mut self, path: Option<Path>, color: BackendColor) {
        if let Some(path) = path {
            self.pixels.fill_path(&path, &paint(color), FillRule::Winding, scale(), None);
        }
    }

    fn stroke(&mut self, path: Option<Path>, color: BackendColor, width: f32) {
        let stroke =
            Stroke { width, line_cap: LineCap::Round, line_join: LineJoin::Round, ..Stroke::default() };
        if let Some(path) = path {
            self.pixels.stroke_path(&path, &paint(color), &stroke, scale(), None);
        }
    }

    fn outline<S: BackendStyle>(&mut self, path: Option<Path>, style: &S, fill: bool) {
        if fill {
            self.fill(path, style.color());
        } else {
            self.stroke(path, style.color(), style.stroke_width() as f32);
        }
    }
}

fn paint(color: BackendColor) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    let (red, green, blue) = color.rgb;
    let [red, green, blue] = [red, green, blue].map(|level| f32::from(level) / 255.0);
    if let Some(color) = Color::from_rgba(red, green, blue, color.alpha.clamp(0.0, 1.0) as f32) {
        paint.set_color(color);
    }
    paint
}

fn scale() -> Transform {
    Transform::from_scale(DENSITY as f32, DENSITY as f32)
}

fn lines(points: impl IntoIterator<Item = (f32, f32)>) -> Option<Path> {
    let mut path = PathBuilder::new();
    for (x, y) in points {
        if path.is_empty() { path.move_to(x, y) } else { path.line_to(x, y) }
    }
    // A point alone is a dot.
    if path.len() == 1
        && let Some(point) = path.last_point()
    {
        path.line_to(point.x, point.y + 0.01);
    }
    path.finish()
}

fn place((x, y): BackendCoord) -> (f32, f32) {
    // The middle of a unit, so that straight lines are sharp.
    (x as f32 + 0.5, y as f32 + 0.5)
}

fn rectangle(corner: BackendCoord, opposite: BackendCoord) -> Option<Path> {
    let (left, top) = (corner.0.min(opposite.0) as f32, corner.1.min(opposite.1) as f32);
    let (right, bottom) = (corner.0.max(opposite.0) as f32 + 1.0, corner.1.max(opposite.1) as f32 + 1.0);
    Rect::from_ltrb(left, top, right, bottom).map(PathBuilder::from_rect)
}

/// Units of the picture for each unit of the letters' grid.
fn letter_scale<T: BackendTextStyle>(style: &T) -> f32 {
    // A font's size is its line, of which capitals are some two thirds.
    style.size() as f32 * 0.62 / letters::HEIGHT
}

impl DrawingBackend for &mut Canvas {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, point: BackendCoord, color: BackendColor) -> Drawn {
        self.fill(rectangle(point, point), color);
        Ok(())
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn {
        self.outline(lines([place(from), place(to)]), style, false);
        Ok(())
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        corner: BackendCoord,
        opposite: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Drawn {
        self.outline(rectangle(corner, opposite), style, fill);
        Ok(())
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Drawn {
        self.outline(lines(path.into_iter().map(place)), style, false);
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        center: BackendCoord,
        radius: u32,
        style: &S,
        fill: bool,
    ) -> Drawn {
        let (x, y) = place(center);
        self.outline(PathBuilder::from_circle(x, y, radius as f32), style, fill);
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Drawn {
        self.outline(lines(path.into_iter().map(place)), style, true);
        Ok(())
    }

    fn draw_text<T: BackendTextStyle>(&mut self, text: &str, style: &T, at: BackendCoord) -> Drawn {
        let unit = letter_scale(style);
        let (strokes, width) = letters::strokes(text);
        let anchor = style.anchor();
        let left = match anchor.h_pos {
            HPos::Left => 0.0,
            HPos::Center => -width / 2.0,
            HPos::Right => -width,
        };
        let top = match anchor.v_pos {
            VPos::Top => 0.0,
            VPos::Center => -letters::HEIGHT / 2.0,
            VPos::Bottom => -letters::HEIGHT,
        };
        let (at_x, at_y) = place(at);
        for stroke in strokes {
            let points = stroke.into_iter().map(|(x, y)| {
                let (x, y) = style
                    .transform()
                    .transform(((left + x) * unit * 64.0) as i32, ((top + y) * unit * 64.0) as i32);
                (at_x + x as f32 / 64.0, at_y + y as f32 / 64.0)
            });
            self.stroke(lines(points), style.color(), 0.17 * letters::HEIGHT * unit);
        }
        Ok(())
    }

    fn estimate_text_size<T: BackendTextStyle>(
        &self,
        text: &str,
        style: &T,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let unit = letter_scale(style);
        let (_, width) = letters::strokes(text);
        Ok(((width * unit).ceil() as u32, (letters::HEIGHT * unit).ceil() as u32))
    }
}
