use image::RgbImage;
use tiny_skia::{FillRule, LineCap, LineJoin, Paint, Path, Pixmap, Stroke, Transform};

use crate::color::{Rgb, blend};
use crate::monster::Monster;
use crate::shape::{Oval, Shape, line};

/// The width of the outline of every part, on a board 100 wide.
const OUTLINE: f32 = 2.3;
/// The width and height of the drawing board.
const BOARD: f32 = 100.0;

/// Every pixel is the mean of GRAIN x GRAIN finer ones, drawn without anti-aliasing. This is several times
/// faster than anti-aliasing every part, which would also leave seams between parts.
const GRAIN: u32 = 4;

const WHITE: Rgb = [255, 255, 255];

/// An unfinished picture: the board, and the colours of the monster on it.
pub(crate) struct Sketch<'a> {
    pub(crate) monster: &'a Monster,
    /// The monster's colour: in the light, in the shade, and pale for bellies and ears.
    pub(crate) skin: Rgb,
    pub(crate) shade: Rgb,
    pub(crate) pale: Rgb,
    /// The colour of outlines: nearly black, with a tinge of the skin.
    pub(crate) ink: Rgb,
    /// The colour of the monster's feature.
    pub(crate) accent: Rgb,
    pixmap: Pixmap,
    board: Transform,
    /// The position of the monster on the board: moved, scaled, tilted, mirrored.
    placed: Transform,
}

impl<'a> Sketch<'a> {
    /// A white board of `size` x `size` pixels; `None` if no picture can have that size.
    pub(crate) fn new(monster: &'a Monster, size: u32) -> Option<Self> {
        let fine = size.checked_mul(GRAIN)?;
        let mut pixmap = Pixmap::new(fine, fine)?;
        pixmap.fill(tiny_skia::Color::WHITE);
        let build = &monster.build;
        let board = Transform::from_scale(fine as f32 / BOARD, fine as f32 / BOARD);
        let skin = build.tint(monster.color.rgb());
        Some(Self {
            monster,
            skin,
            shade: blend(skin, [40, 20, 70], 0.18),
            pale: blend(skin, WHITE, 0.55),
            ink: blend(skin, [24, 18, 34], 0.80),
            accent: monster.feature.color().map_or(skin, |color| color.rgb()),
            pixmap,
            board,
            placed: board.pre_concat(build.placement()),
        })
    }

    /// Fills shapes, with no outline.
    pub(crate) fn fill(&mut self, color: Rgb, shapes: &[Shape]) {
        let paint = paint(color);
        for shape in shapes {
            self.stamp(shape, &paint, 0.0);
        }
    }

    /// Fills shapes that form one part: one outline runs around all of them.
    pub(crate) fn part(&mut self, color: Rgb, shapes: &[Shape]) {
        let (ink, paint) = (paint(self.ink), paint(color));
        for shape in shapes {
            self.stamp(shape, &ink, OUTLINE);
        }
        for shape in shapes {
            self.stamp(shape, &paint, 0.0);
        }
    }

    /// A thin line of ink.
    pub(crate) fn scribble(&mut self, points: &[(f32, f32)], width: f32) {
        let ink = self.ink;
        self.fill(ink, &[line(points, width)]);
    }

    /// A rounded part in the monster's colour, shaded at the lower right.
    pub(crate) fn round(&mut self, oval: Oval) {
        let (skin, shade) = (self.skin, self.shade);
        self.part(skin, &[oval.shape()]);
        self.fill(shade, &[oval.crescent()]);
    }

    /// Draws without the monster's placement, for the scenery.
    pub(crate) fn on_the_board(&mut self, draw: impl FnOnce(&mut Self)) {
        let placed = std::mem::replace(&mut self.placed, self.board);
        draw(self);
        self.placed = placed;
    }

    /// The picture, reduced to its final size.
    pub(crate) fn finish(self) -> RgbImage {
        // Red and blue are summed in the two halves of one word, green in another.
        const RED_BLUE: u32 = 0x00FF_00FF;
        const SHARE: u32 = GRAIN * GRAIN;
        let (grain, fine) = (GRAIN as usize, self.pixmap.width() as usize);
        let size = fine / grain;
        let mut pixels = Vec::with_capacity(3 * size * size);
        let mut sums = vec![[0u32; 2]; size];
        for rows in self.pixmap.data().as_chunks::<4>().0.chunks_exact(fine * grain) {
            sums.fill([SHARE / 2 * 0x0001_0001, SHARE / 2]);
            for row in rows.chunks_exact(fine) {
                for (sum, grains) in sums.iter_mut().zip(row.chunks_exact(grain)) {
                    for &grain in grains {
                        let rgba = u32::from_le_bytes(grain);
                        sum[0] += rgba & RED_BLUE;
                        sum[1] += (rgba >> 8) & 0xFF;
                    }
                }
            }
            let mean = |sum: u32| (sum / SHARE) as u8;
            pixels.extend(sums.iter().flat_map(|[rb, g]| [mean(rb & 0xFFFF), mean(*g), mean(rb >> 16)]));
        }
        RgbImage::from_raw(size as u32, size as u32, pixels).unwrap_or_default()
    }

    fn stamp(&mut self, shape: &Shape, paint: &Paint, margin: f32) {
        match shape {
            Shape::Oval(oval, turn) => {
                if let Some(path) = oval.path(margin) {
                    let placed = self.placed.pre_concat(*turn);
                    self.pixmap.fill_path(&path, paint, FillRule::Winding, placed, None);
                }
            }
            Shape::Area(path) if margin == 0.0 => {
                self.pixmap.fill_path(path, paint, FillRule::Winding, self.placed, None);
            }
            // The stroke leaves a hole in the middle, which the part itself fills later.
            Shape::Area(path) => self.stroke(path, paint, 2.0 * margin),
            Shape::Line(path, width) => self.stroke(path, paint, width + 2.0 * margin),
            Shape::Empty => {}
        }
    }

    fn stroke(&mut self, path: &Path, paint: &Paint, width: f32) {
        let stroke =
            Stroke { width, line_cap: LineCap::Round, line_join: LineJoin::Round, ..Stroke::default() };
        self.pixmap.stroke_path(path, paint, &stroke, self.placed, None);
    }
}

fn paint(color: Rgb) -> Paint<'static> {
    let mut paint = Paint { anti_alias: false, ..Paint::default() };
    paint.set_color_rgba8(color[0], color[1], color[2], 255);
    paint
}
