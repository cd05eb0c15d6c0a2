//! The content of the report page.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;

use caption_lora::{
    report::{Better, Example, History, LogEntry, Metric, Report, Run, compare_html, write_comparison},
    results::{CaptionLine, Metrics},
};

fn metric(key: &str, name: &str, base: Option<f64>, adapter: Option<f64>, better: Better) -> Metric {
    Metric { key: key.to_owned(), name: name.to_owned(), base, adapter, better }
}

fn report() -> Report {
    let entry = |i: usize| LogEntry {
        step: i,
        epoch: i as f64 / 10.0,
        loss: Some(4.0 / i as f64),
        eval_loss: i.is_multiple_of(10).then_some(5.0 / i as f64),
        learning_rate: Some(1e-4 / i as f64),
        grad_norm: Some(1.5),
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
            metric("test_loss", "Test loss", Some(4.0), Some(3.0), Better::Lower),
            metric("bleu_4", "BLEU-4", Some(0.2), Some(0.1), Better::Higher),
            metric("perplexity", "Perplexity", None, Some(20.1), Better::Lower),
            metric("mean_length", "Words a caption", Some(4.0), Some(8.0), Better::Neither),
        ],
        examples: vec![Example {
            row: 429,
            image_png: vec![0x89, b'P', b'N', b'G', 0xff, 0xff, 0xff],
            reference: "a <script>alert(1)</script> dragon".into(),
            base: String::new(),
            adapter: "a green Dragon".into(),
            base_score: 0.0,
            adapter_score: 0.5,
        }],
        signatures: vec![("rouge_l".into(), "beta 1.2 <i>".into())],
        warnings: vec!["3 of 4 pictures get the same caption: `<u>`".into()],
        effects: vec![("encoder.0.query".into(), 0.02), ("encoder.1.query".into(), 0.04)],
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
        "Reference of row 429",
        "Base, ROUGE-L 0.00",
        "Adapted, ROUGE-L 0.50",
        "1 or more, lower is better",
        "words, neither way is better",
        "best 0.250",
        "after epoch 2.0, with a validation loss of 0.2500.",
        "<mark>a</mark> green <mark>Dragon</mark>",
        "(nothing)",
        "data:image/png;base64,iVBOR////w==",
        "100.0 % higher</span>",
        "data-changed=\"yes\" data-base=\"0.0\" data-adapter=\"0.5\"",
        "learning rate by epoch.",
        "gradient norm before clipping by epoch.",
        "width:50.0%",
        "beta 1.2",
        "3 of 4 pictures",
    ] {
        assert!(html.contains(text), "no `{text}` in {html}");
    }
}

#[test]
fn nothing_from_outside_becomes_markup() {
    let html = report().html().unwrap();
    assert_eq!(html.matches("<script").count(), 1, "the page's own");
    assert!(!html.contains("<script>alert") && !html.contains("<of>"));
    assert!(["<b>", "<i>", "<u>"].iter().all(|tag| !html.contains(tag)));
    assert!(html.contains("&lt;script&gt;alert(1)"));
}

#[test]
fn the_page_asks_nothing_of_a_network() {
    let html = report().html().unwrap();
    let addresses = html.split("://").skip(1).map(|rest| rest.split('"').next().unwrap());
    let unknown: Vec<_> = addresses.filter(|address| *address != "www.w3.org/2000/svg").collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    for loading in ["<link rel=\"stylesheet", "@import", "url(", "<iframe", "srcset", "<script src"] {
        assert!(!html.contains(loading), "{loading}");
    }
}

/// A run with one result each for the base model and the adapter.
fn run(name: &str, base: f64, adapter: f64, bleu: f64) -> Run {
    let mut metrics = Metrics::default();
    metrics.base.insert("test_loss".into(), Some(base));
    metrics.adapter.extend([("test_loss".into(), Some(adapter)), ("bleu_4".into(), Some(bleu))]);
    Run { name: name.into(), history: report().history, metrics, captions: Vec::new(), seconds: None }
}

#[test]
fn captions_that_differ_between_runs_stand_side_by_side() {
    let line = |row: usize, adapter: &str| CaptionLine {
        row,
        prompt: None,
        reference: format!("creature {row}"),
        references: Vec::new(),
        base: "the base's".into(),
        adapter: adapter.into(),
    };
    let with = |name: &str, captions: Vec<CaptionLine>| Run { captions, ..run(name, 4.0, 3.0, 0.5) };
    let first = with("f32", vec![line(7, "a red <b> dragon"), line(8, "a blue bird"), line(9, "a cat")]);
    let second = with("int8", vec![line(8, "a blue bird"), line(7, ""), line(10, "a dog")]);
    let html = compare_html(&[first.clone(), second]).unwrap();
    for text in [
        "1 of 2 pictures have the same caption from all runs; these have not.",
        "creature 7<small>row 7</small></th><td>a red &lt;b&gt; dragon</td><td>(nothing)</td>",
    ] {
        assert!(html.contains(text), "no `{text}` in {html}");
    }
    assert!(["creature 8", "creature 9", "creature 10"].iter().all(|other| !html.contains(other)));
    let html = compare_html(&[first.clone(), first.clone()]).unwrap();
    assert!(
        html.contains("3 of 3 pictures have the same caption from all runs.") && !html.contains("creature")
    );
    for runs in [vec![first.clone()], vec![first, run("old", 4.0, 3.0, 0.5)]] {
        assert!(!compare_html(&runs).unwrap().contains("id=\"captions\""));
    }
}

#[test]
fn runs_side_by_side_have_their_best_marked_whichever_way_is_better() {
    let html = compare_html(&[run("r-4 <b>", 4.0, 3.0, 0.5), run("r-8", 4.0, 2.0, 0.25)]).unwrap();
    for text in [
        "<h1>2 runs compared</h1>",
        "r-4 &lt;b&gt;",
        "<td>4.000</td><td>3.000</td><td class=\"best\">2.000</td>",
        "<td class=\"best\">0.5000</td><td>0.2500</td>",
        "validation loss, nats per token by epoch.",
        "training loss, nats per token by epoch.",
        "BLEU-4<small>0 to 1, higher is better</small>",
    ] {
        assert!(html.contains(text), "no `{text}` in {html}");
    }
    assert!(!html.contains("<b>") && !html.contains("<script"));
}

#[test]
fn a_page_of_compared_runs_replaces_only_such_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("compare.html");
    for names in [vec!["a"], vec!["a", "b"], (b'a'..b'k').map(|_| "many").collect()] {
        let runs: Vec<Run> = names.iter().map(|name| run(name, 4.0, 3.0, 0.5)).collect();
        write_comparison(&runs, &path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), compare_html(&runs).unwrap());
    }
    for (name, content) in [("report.html", report().html().unwrap()), ("empty", String::new())] {
        let path = folder.path().join(name);
        fs::write(&path, &content).unwrap();
        let message = format!("{:#}", write_comparison(&[run("a", 4.0, 3.0, 0.5)], &path).unwrap_err());
        assert!(message.contains(name) && message.contains("--output"), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn runs_of_one_folder_are_called_by_what_tells_them_apart() {
    let html = compare_html(&[run("runs/r/4", 4.0, 3.0, 0.5), run("runs/r/8", 4.0, 2.0, 0.5)]).unwrap();
    assert!(
        html.contains("<p>in runs&#x2f;r&#x2f;</p>") && html.contains(">4</th>") && html.contains(">8</th>"),
        "{html}"
    );
    for names in [["runs/r", "elsewhere"], ["runs/", "runs/"]] {
        let html = compare_html(&names.map(|name| run(name, 4.0, 3.0, 0.5))).unwrap();
        let name = names[0].replace('/', "&#x2f;");
        assert!(!html.contains("<p>in ") && html.contains(&format!(">{name}</th>")), "{html}");
    }
    assert!(compare_html(&[run("runs/r", 4.0, 3.0, 0.5)]).unwrap().contains("<h1>1 run</h1>"));
}

#[test]
fn runs_that_are_equally_good_have_no_best() {
    let html = compare_html(&[run("a", 4.0, 3.0, 0.5), run("b", 4.0, 3.0, 0.25)]).unwrap();
    assert!(
        html.contains("<td>3.000</td><td>3.000</td>") && html.contains("<td class=\"best\">0.5000</td>"),
        "{html}"
    );
}

#[test]
fn the_page_can_be_jumped_through_and_every_jump_arrives() {
    let html = report().html().unwrap();
    let targets: Vec<_> =
        html.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(targets, ["results", "curves", "pictures", "layers", "set-up", "command"]);
    assert!(targets.iter().all(|target| html.contains(&format!("id=\"{target}\""))), "{html}");
}

#[test]
fn runs_of_different_models_have_no_base_in_common() {
    let html = compare_html(&[run("a", 4.0, 3.0, 0.5), run("b", 5.0, 2.0, 0.25)]).unwrap();
    assert!(!html.contains(">Base model<") && !html.contains("<td>4.000</td>"), "{html}");
}

#[test]
fn a_base_that_differs_in_its_last_bits_is_one_base() {
    let html = compare_html(&[run("a", 4.0, 3.0, 0.5), run("b", 4.000001, 2.0, 0.25)]).unwrap();
    assert!(html.contains(">Base model<") && html.contains("<td>4.000</td>"), "{html}");
}

#[test]
fn the_error_for_a_folder_without_a_run_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let message = format!("{:#}", Run::read(folder.path()).unwrap_err());
    assert!(message.contains("trainer_state.json") && message.contains("finished run"), "{message}");
}

#[test]
fn an_empty_run_still_makes_a_page() {
    let html = Report { title: "Nothing yet".into(), ..Report::default() }.html().unwrap();
    assert!(html.contains("<h1>Nothing yet</h1>") && !html.contains("<section") && !html.contains("<svg"));
    assert!(!html.contains("<script"));
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
