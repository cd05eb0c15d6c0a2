//! The styles of curves and the legend. Curves differ in marks and dashes as well as in colour.

use anyhow::Result;
use plotters::{coord::Shift, element::DashedPathElement, prelude::*};

use super::{Style, palette::Palette};

/// Length of a line sample in the legend, and the space after a name.
const SAMPLE: i32 = 30;
const GAP: i32 = 16;

/// How a curve is drawn.
#[derive(Clone, Copy)]
pub(super) struct Look {
    color: RGBColor,
    mark: Option<Mark>,
    /// Lengths of a dash and of the gap after it; `None` is a solid line.
    dashes: Option<(i32, i32)>,
}

#[derive(Clone, Copy, Debug)]
enum Mark {
    Dot,
    Ring,
    Triangle,
    Cross,
}

const MARKS: [Mark; 4] = [Mark::Dot, Mark::Ring, Mark::Triangle, Mark::Cross];
const DASHES: [Option<(i32, i32)>; 3] = [None, Some((9, 5)), Some((2, 5))];

impl Look {
    /// The style of the curve with this number: four marks and three kinds of line distinguish twelve curves
    /// without colour.
    pub(super) fn of(number: usize, palette: &Palette) -> Self {
        Self {
            color: palette.curves[number % palette.curves.len()],
            mark: Some(MARKS[number % MARKS.len()]),
            dashes: DASHES[number / MARKS.len() % DASHES.len()],
        }
    }

    /// A line without marks.
    pub(super) fn plain(color: RGBColor) -> Self {
        Self { color, mark: None, dashes: None }
    }

    /// A line with dots on it.
    pub(super) fn dotted(color: RGBColor) -> Self {
        Self { mark: Some(Mark::Dot), ..Self::plain(color) }
    }

    /// Points on the curve's line.
    pub(super) fn line<'a, B: DrawingBackend + 'a, C: Clone + 'static>(
        self,
        points: Vec<C>,
    ) -> DynElement<'a, B, C> {
        let style = self.color.stroke_width(2);
        match self.dashes {
            None => PathElement::new(points, style).into_dyn(),
            Some((dash, gap)) => DashedPathElement::new(points, dash, gap, style).into_dyn(),
        }
    }

    /// The curve's mark, if it has one.
    pub(super) fn mark<'a, B: DrawingBackend + 'a, C: Clone + 'static>(
        self,
        at: C,
    ) -> Option<DynElement<'a, B, C>> {
        let (filled, stroke) = (self.color.filled(), self.color.stroke_width(2));
        Some(match self.mark? {
            Mark::Dot => Circle::new(at, 4, filled).into_dyn(),
            Mark::Ring => Circle::new(at, 5, stroke).into_dyn(),
            Mark::Triangle => TriangleMarker::new(at, 6, filled).into_dyn(),
            Mark::Cross => Cross::new(at, 4, stroke).into_dyn(),
        })
    }
}

/// Names in rows, as many per row as fit into the plot.
pub(super) struct Legend {
    entries: Vec<Entry>,
    rows: i32,
}

struct Entry {
    name: String,
    look: Look,
    /// Start of its sample, and its row.
    place: (i32, i32),
}

impl Legend {
    /// The legend of curves with these names.
    pub(super) fn new<'a>(curves: impl IntoIterator<Item = (&'a str, Look)>, style: Style) -> Self {
        let (letters, width) = (style.letters as i32, style.size.0 as i32);
        let room = width - 2 * letters;
        // Half a letter's height is more than the width of a letter in the usual fonts.
        let most = ((room - SAMPLE) * 2 / letters).max(1) as usize;
        let (mut entries, mut left, mut rows) = (Vec::new(), 0, 0);
        for (name, look) in curves {
            let name = ending(name, most);
            let wide = SAMPLE + name.chars().count() as i32 * letters / 2;
            if rows == 0 || left + wide > room {
                (left, rows) = (0, rows + 1);
            }
            entries.push(Entry { name, look, place: (letters + left, rows - 1) });
            left += wide + GAP;
        }
        Self { entries, rows }
    }

    /// Its height.
    pub(super) fn height(&self, style: Style) -> u32 {
        self.rows as u32 * row(style)
    }

    /// Draws it with its upper edge at `top`.
    pub(super) fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        top: u32,
        style: Style,
    ) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let palette = Palette::of(style);
        let font = ("sans-serif", style.letters).into_font().color(&palette.ink);
        for Entry { name, look, place: (x, line) } in &self.entries {
            let y = (top + row(style) / 2) as i32 + line * row(style) as i32;
            area.draw(&look.line(vec![(*x, y), (x + 24, y)]))?;
            if let Some(mark) = look.mark((x + 12, y)) {
                area.draw(&mark)?;
            }
            let upper = y - style.letters as i32 / 2;
            area.draw(&Text::new(name.clone(), (x + SAMPLE, upper), font.clone()))?;
        }
        Ok(())
    }
}

fn row(style: Style) -> u32 {
    style.letters * 3 / 2
}

/// The end of a name, where the names of runs differ.
fn ending(name: &str, most: usize) -> String {
    let count = name.chars().count();
    if count <= most {
        return name.to_owned();
    }
    let end: String = name.chars().skip(count + 1 - most).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legend(names: &[&str], width: u32) -> Legend {
        let style = Style { size: (width, 300), letters: 10, dark: false };
        Legend::new(names.iter().map(|name| (*name, Look::plain(RGBColor(0, 0, 0)))), style)
    }

    #[test]
    fn names_that_do_not_fit_beside_each_other_go_below() {
        // Each is 30 + 5 * 5 = 55 units wide, with 16 between them and 10 at either side.
        let names = ["run a", "run b", "run c"];
        assert_eq!([217, 216, 90].map(|width| legend(&names, width).rows), [1, 2, 3]);
        let places: Vec<_> = legend(&names, 216).entries.iter().map(|entry| entry.place).collect();
        assert_eq!(places, [(10, 0), (81, 0), (10, 1)]);
    }

    #[test]
    fn a_long_name_keeps_its_end() {
        assert_eq!(legend(&["runs/sweep/r-16"], 75).entries[0].name, "…r-16");
        assert_eq!(legend(&["r-16"], 75).entries[0].name, "r-16");
        assert_eq!(legend(&[], 75).rows, 0);
    }

    #[test]
    fn twelve_curves_differ_without_their_colours() {
        let palette = Palette::of(Style::default());
        let looks = (0..12).map(|number| Look::of(number, &palette));
        let forms: std::collections::BTreeSet<String> =
            looks.map(|look| format!("{:?} {:?}", look.mark, look.dashes)).collect();
        assert_eq!(forms.len(), 12);
    }
}
