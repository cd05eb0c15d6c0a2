//! Letters as strokes, so that a picture of pixels needs no font.
//!
//! A glyph is drawn on a grid: `x` to the right, `y` down; capitals and digits begin at 0, small letters at 2, all stand on
//! 6, and 8 is the depth of a `g`. A point is two digits, a stroke is points in a row, and `|` lifts the pen.

/// Height of the grid from the top of a digit to the line that it stands on.
pub(super) const HEIGHT: f32 = 6.0;
/// Room between two glyphs, on the grid.
const GAP: f32 = 1.7;
/// Width of a space.
const SPACE: f32 = 1.5;

/// Strokes of a text and its width, both on the grid.
pub(super) fn strokes(text: &str) -> (Vec<Vec<(f32, f32)>>, f32) {
    let (mut strokes, mut left) = (Vec::new(), 0.0);
    for c in text.chars() {
        let mut width: f32 = SPACE;
        for stroke in glyph(c).split('|').filter(|stroke| !stroke.is_empty()) {
            let points: Vec<(f32, f32)> = stroke.split(' ').filter_map(point).collect();
            width = points.iter().map(|(x, _)| *x).fold(width.max(0.6), f32::max);
            strokes.push(points.into_iter().map(|(x, y)| (left + x, y)).collect());
        }
        let digit = if c.is_ascii_digit() { 3.0 } else { 0.0 };
        left += width.max(digit) + GAP;
    }
    (strokes, (left - GAP).max(0.0))
}

fn point(text: &str) -> Option<(f32, f32)> {
    let mut digits = text.chars().filter_map(|c| c.to_digit(10)).map(|digit| digit as f32);
    Some((digits.next()?, digits.next()?))
}

/// A box stands for what has no glyph.
fn glyph(c: char) -> &'static str {
    match c.to_ascii_lowercase() {
        ' ' => "",
        '0' => "10 20 31 35 26 16 05 01 10",
        '1' => "11 20 26",
        '2' => "01 10 20 31 32 06 36",
        '3' => "01 10 20 31 32 23 13|23 34 35 26 16 05",
        '4' => "26 20 04 34",
        '5' => "30 00 02 22 33 35 26 16 05",
        '6' => "30 20 11 03 05 16 26 35 34 23 13 04",
        '7' => "00 30 31 16",
        '8' => "10 20 31 32 23 13 02 01 10|13 04 05 16 26 35 34 23",
        '9' => "32 23 13 02 01 10 20 31 33 25 16 06",
        'a' => "32 36|33 22 12 03 05 16 26 35",
        'b' => "00 06|03 12 22 33 35 26 16 05",
        'c' => "33 22 12 03 05 16 26 35",
        'd' => "30 36|33 22 12 03 05 16 26 35",
        'e' => "04 34 33 22 12 03 05 16 26 35",
        'f' => "30 20 11 16|02 22",
        'g' => "32 37 28 18 07|33 22 12 03 05 16 26 35",
        'h' => "00 06|03 12 22 33 36",
        'i' => "12 16|10 10",
        'j' => "22 27 18 08|20 20",
        'k' => "00 06|32 04|14 36",
        'l' => "10 16",
        'm' => "02 06|03 12 23 26|23 32 43 46",
        'n' => "02 06|03 12 22 33 36",
        'o' => "12 22 33 35 26 16 05 03 12",
        'p' => "02 08|03 12 22 33 35 26 16 05",
        'q' => "32 38|33 22 12 03 05 16 26 35",
        'r' => "02 06|03 12 22",
        's' => "33 22 12 03 14 24 35 26 16 05",
        't' => "10 15 26|02 22",
        'u' => "02 05 16 26 35|32 36",
        'v' => "02 26 42",
        'w' => "02 16 23 36 42",
        'x' => "02 36|32 06",
        'y' => "02 05 16 26 35|32 37 28 18 07",
        'z' => "02 32 06 36",
        '.' => "06 06",
        ',' => "16 07",
        ':' => "03 03|06 06",
        '-' => "04 24",
        '/' => "06 20",
        _ => "00 30 36 06 00",
    }
}
