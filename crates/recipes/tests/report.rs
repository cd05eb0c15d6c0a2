//! The page as its reader gets it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;

use recipes::{
    plot::{History, LogEntry},
    report::{Example, Metric, Report},
};

fn report() -> Report {
    let entry = |i: usize| LogEntry {
        step: i,
        epoch: i as f64 / 10.0,
        loss: Some(4.0 / i as f64),
        eval_loss: i.is_multiple_of(10).then_some(5.0 / i as f64),
    };
    Report {
        title: "Captions <of> creatures".into(),
        subtitle: "a model & a dataset".into(),
        command: "cargo run --release --example pokemon_finetune -- --target-modules 'a|b' --prompt \"<b>\""
            .into(),
        setup: vec![
            ("Model".into(), "embedded".into()),
            ("Trainable parameters".into(), "1,327,104 of 177,946,170 (0.7458 %)".into()),
        ],
        history: History { entries: (1..=30).map(entry).collect(), best_step: Some(20) },
        metrics: vec![
            Metric { name: "Test loss".into(), base: Some(4.0), adapter: Some(3.0), lower_is_better: true },
            Metric { name: "BLEU-4".into(), base: Some(0.2), adapter: Some(0.1), lower_is_better: false },
            Metric { name: "Perplexity".into(), base: None, adapter: Some(20.1), lower_is_better: true },
        ],
        examples: vec![Example {
            row: 429,
            image_png: vec![0x89, b'P', b'N', b'G', 0xff, 0xff, 0xff],
            reference: "a <script>alert(1)</script> dragon".into(),
            base: String::new(),
            adapter: "a green Dragon".into(),
        }],
    }
}

#[test]
fn the_page_holds_all_of_the_run() {
    let html = report().html().unwrap();
    for text in [
        "1,327,104 of 177,946,170 (0.7458 %)",
        "25.0 % lower (better)",
        "50.0 % lower (worse)",
        "20.10",
        "Reference, row 429",
        "best 0.250",
        "0.2500 after epoch 2.0",
        "<mark>a</mark> green <mark>Dragon</mark>",
        "(nothing)",
        "data:image/png;base64,iVBOR////w==",
    ] {
        assert!(html.contains(text), "no `{text}` in {html}");
    }
}

#[test]
fn nothing_from_outside_becomes_markup() {
    let html = report().html().unwrap();
    assert!(!html.contains("<script") && !html.contains("<of>") && !html.contains("<b>"));
    assert!(html.contains("&lt;script&gt;alert(1)"));
}

#[test]
fn the_page_asks_nothing_of_a_network() {
    let html = report().html().unwrap();
    let addresses: Vec<_> =
        html.match_indices("http").map(|(at, _)| &html[at..(at + 30).min(html.len())]).collect();
    assert!(
        addresses.iter().all(|address| address.starts_with("http://www.w3.org/2000/svg")),
        "{addresses:?}"
    );
    for loading in ["<link", "@import", "url(", "<iframe", "srcset"] {
        assert!(!html.contains(loading), "{loading}");
    }
}

#[test]
fn an_empty_run_still_makes_a_page() {
    let html = Report { title: "Nothing yet".into(), ..Report::default() }.html().unwrap();
    assert!(html.contains("<h1>Nothing yet</h1>") && !html.contains("<section") && !html.contains("<svg"));
}

#[test]
fn writing_replaces_the_old_page_and_leaves_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/report.html");
    for title in ["first", "second"] {
        Report { title: title.into(), ..Report::default() }.write(&path).unwrap();
    }
    assert!(fs::read_to_string(&path).unwrap().contains("<h1>second</h1>"));
    assert_eq!(fs::read_dir(folder.path().join("run")).unwrap().count(), 1);
}

#[test]
fn a_page_that_cannot_be_written_names_its_path() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let path = folder.path().join("file/report.html");
    let message = format!("{:#}", report().write(&path).unwrap_err());
    assert!(message.contains("file/report.html"), "{message}");
}
