use anyhow::Result;
use minijinja::{
    Environment, context,
    value::{Serde, Value},
};
use serde::Serialize;

use super::page::data_uri;
use crate::report::Example;

/// Distances in pixels of the image's own coordinates.
const MARGIN: usize = 20;
const PICTURE: usize = 200;
const LINE: usize = 18;
/// Letters per line below a picture: as many as fit in the usual fonts.
const LETTERS: usize = 28;

const SOFT: &str = "#566070";
const INK: &str = "#1c2129";
const ACCENT: &str = "#2b6cb0";

/// A line of text below a picture.
#[derive(Serialize)]
struct Line {
    y: usize,
    color: &'static str,
    bold: bool,
    text: String,
}

/// Draws pictures in a row as an SVG, each with the captions of the base model and the adapted one.
///
/// Like the page, the file is self-contained: the pictures are in it, and text stays text.
///
/// # Errors
/// Only if the template fails, which is a bug in this crate.
pub fn strip_svg(examples: &[Example]) -> Result<String> {
    let columns: Vec<Vec<Line>> = examples.iter().map(lines).collect();
    let text = columns.iter().flatten().map(|line| line.y).max().unwrap_or(MARGIN + PICTURE);
    let cards: Vec<Value> = examples
        .iter()
        .zip(&columns)
        .enumerate()
        .map(|(index, (example, lines))| {
            let (x, image) = (MARGIN + index * (PICTURE + MARGIN), data_uri(&example.image_png));
            context! { x, image, lines => Value::from(Serde(lines)) }
        })
        .collect();
    let mut environment = Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    // The template engine escapes markup in files with this extension.
    environment.add_template("strip.xml", include_str!("strip.svg.jinja"))?;
    Ok(environment.get_template("strip.xml")?.render(context! {
        width => MARGIN + examples.len() * (PICTURE + MARGIN),
        height => text + MARGIN,
        margin => MARGIN,
        picture => PICTURE,
        cards,
    })?)
}

/// The text below a picture: both captions under their headings.
fn lines(example: &Example) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut y = MARGIN + PICTURE + MARGIN / 2;
    let captions = [("before", &example.base, SOFT, SOFT), ("after", &example.adapter, ACCENT, INK)];
    for (heading, caption, heading_color, color) in captions {
        y += LINE;
        lines.push(Line { y, color: heading_color, bold: true, text: heading.to_owned() });
        for text in wrapped(caption) {
            y += LINE;
            lines.push(Line { y, color, bold: false, text });
        }
        y += LINE / 3;
    }
    lines
}

/// Wraps a caption into lines of at most [`LETTERS`] letters; a longer word has a line of its own.
fn wrapped(caption: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in caption.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= LETTERS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    if lines.is_empty() {
        lines.push("(nothing)".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_wrap_between_words() {
        assert_eq!(
            wrapped("a blue dragon with big wings on grass"),
            ["a blue dragon with big wings", "on grass"]
        );
        assert_eq!(wrapped(&"x".repeat(40)), ["x".repeat(40)]);
        assert_eq!(wrapped(" "), ["(nothing)"]);
    }

    #[test]
    fn every_picture_has_its_column_and_nothing_escapes_into_the_markup() {
        let example = |base: &str| Example {
            row: 0,
            image_png: vec![1, 2, 3],
            reference: String::new(),
            base: base.into(),
            adapter: "a & b".into(),
            base_score: 0.0,
            adapter_score: 0.0,
        };
        let svg = strip_svg(&[example("<script>"), example("a cat")]).unwrap();
        assert_eq!(svg.matches("<image ").count(), 2);
        assert!(svg.contains("width=\"460\"") && svg.contains("translate(240 0)"), "{svg}");
        assert!(
            svg.contains("&lt;script&gt;") && svg.contains("a &amp; b") && !svg.contains("<script>"),
            "{svg}"
        );
    }
}
