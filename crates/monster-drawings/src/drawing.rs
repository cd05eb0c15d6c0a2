use image::RgbImage;

use crate::bodies;
use crate::monster::Monster;
use crate::sketch::Sketch;

impl Monster {
    /// Draws the monster on white, `size` pixels wide and high.
    ///
    /// The pixels are the same on every machine. The picture is empty if `size` is 0 or far too large.
    pub fn draw(&self, size: u32) -> RgbImage {
        let Some(mut sketch) = Sketch::new(self, size) else { return RgbImage::new(0, 0) };
        sketch.on_the_board(Sketch::backdrop);
        bodies::draw(&mut sketch);
        sketch.on_the_board(Sketch::foreground);
        sketch.finish()
    }
}
