//! The captioning example, run as a program.

use std::fs;
use std::process::Command;

use crate::common::programs::{example, json_lines, run};
use crate::common::tiny::Tiny;
use serde_json::Value;

const CLS: u64 = 2;
const SEP: u64 = 3;
/// The exit code if some pictures could not be read.
const SKIPPED: i32 = 2;

/// The embedded model on the embedded drawings.
fn embedded(flags: &str) -> Command {
    let mut command = example("caption");
    command.args(flags.split_whitespace());
    command
}

fn said(command: &mut Command) -> Vec<Value> {
    json_lines(&run(command).stdout())
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["text"].as_str().unwrap()).collect()
}

#[test]
fn rows_of_a_dataset_get_one_line_each_in_their_order() {
    let stdout = run(&mut embedded("--dataset embedded --rows 5,0")).stdout();
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{stdout}");
    assert!(lines[0].starts_with("row 5: ") && lines[1].starts_with("row 0: "), "{stdout}");
    assert!(lines[0].len() > "row 5: ".len() + 10, "{stdout}");
}

#[test]
fn a_draft_leaves_captions_and_scores_as_they_are() {
    let said = |draft: &str| {
        let flags = format!("--dataset embedded --rows 5,0,3 --json --draft {draft}");
        let mut lines = said(&mut embedded(&flags));
        lines.iter_mut().for_each(|line| line["seconds"] = 0.into());
        lines
    };
    assert_eq!(said("always"), said("never"));
}

#[test]
fn json_lines_have_the_ids_from_the_start_token_to_the_end_token() {
    let lines = said(&mut embedded("--dataset embedded --rows 5,0 --json"));
    assert_eq!(lines.iter().map(|line| line["row"].as_u64().unwrap()).collect::<Vec<_>>(), [5, 0]);
    for line in &lines {
        let ids: Vec<_> = line["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        assert_eq!((ids[0], ids[ids.len() - 1]), (CLS, SEP), "{line}");
        assert!(ids[1..ids.len() - 1].iter().all(|id| ![CLS, SEP].contains(id)), "{line}");
        assert!(
            line["text"].as_str().unwrap().contains(' ') && line["seconds"].as_f64().unwrap() > 0.0,
            "{line}"
        );
        assert!(line.get("image").is_none(), "{line}");
    }
    // A truncated caption has no end token.
    let cut = said(&mut embedded("--dataset embedded --rows 5 --json --max-new-tokens 3 --num-beams 1"));
    let ids = cut[0]["ids"].as_array().unwrap();
    assert_eq!(ids.len(), 4);
    assert_ne!(ids[3], SEP);
}

#[test]
fn captions_are_the_same_one_by_one_and_in_batches() {
    for decoding in ["--num-beams 1", "", "--num-beams 4 --early-stopping never"] {
        let rows = format!("--dataset embedded --rows 0,1,2,3,4,5,6,7 --json {decoding}");
        let single = said(&mut embedded(&format!("{rows} --batch-size 1")));
        let batch = said(&mut embedded(&format!("{rows} --batch-size 8")));
        let uneven = said(&mut embedded(&format!("{rows} --batch-size 3")));
        let ids = |lines: &[Value]| lines.iter().map(|line| line["ids"].clone()).collect::<Vec<_>>();
        assert_eq!(ids(&single), ids(&batch), "{decoding}");
        assert_eq!(ids(&single), ids(&uneven), "{decoding}");
    }
}

#[test]
fn picture_files_get_the_captions_of_the_same_pictures_in_a_dataset() {
    let tiny = Tiny::new();
    let mut files = embedded("--json");
    for row in 0..3 {
        fs::write(tiny.path(&format!("{row}.png")), crate::common::tiny::png(row)).unwrap();
        files.arg(tiny.path(&format!("{row}.png")));
    }
    let of_files = said(&mut files);
    let of_rows = said(embedded("--json --rows 0,1,2 --dataset").arg(&tiny.dataset));
    assert_eq!(texts(&of_files), texts(&of_rows));
    for (row, line) in of_files.iter().enumerate() {
        assert_eq!(line["image"], tiny.path(&format!("{row}.png")).to_str().unwrap());
        assert!(line.get("row").is_none(), "{line}");
    }
}

#[test]
fn a_prompt_without_a_known_word_is_warned_of() {
    let warned = |prompt: &str| {
        let ended = run(embedded("--dataset embedded --rows 0 --prompt").arg(prompt));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stderr.contains("warning: the model's vocabulary has no word of the prompt")
    };
    assert!(warned("日本語"));
    assert!(!warned("green"));
}

#[test]
fn captions_continue_the_prompt() {
    let lines = said(embedded("--dataset embedded --rows 0,1 --json --prompt").arg("green"));
    for line in &lines {
        let text = line["text"].as_str().unwrap();
        assert!(text.starts_with("green "), "{text}");
        assert_eq!(line["ids"][0], CLS);
    }
    let plain = said(&mut embedded("--dataset embedded --rows 0,1 --json"));
    assert_ne!(texts(&lines), texts(&plain));
}

#[test]
fn sampling_is_drawn_from_its_seed() {
    let sample = |seed: u64| {
        let flags =
            format!("--dataset embedded --rows 0,1,2 --json --do-sample --temperature 2 --seed {seed}");
        said(&mut embedded(&flags)).into_iter().map(|line| line["ids"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(sample(1), sample(1));
    assert_ne!(sample(1), sample(2));
}

#[test]
fn several_captions_are_sorted_by_score() {
    let flags = "--dataset embedded --rows 0,1 --json --num-beams 3 --early-stopping never";
    let lines = said(&mut embedded(&format!("{flags} --num-return-sequences 3")));
    assert_eq!(
        lines.iter().map(|line| line["row"].as_u64().unwrap()).collect::<Vec<_>>(),
        [0, 0, 0, 1, 1, 1]
    );
    for captions in lines.chunks(3) {
        assert!(captions.is_sorted_by(|a, b| a["score"].as_f64() >= b["score"].as_f64()), "{captions:?}");
        let mut texts = texts(captions);
        texts.dedup();
        assert_eq!(texts.len(), 3, "{texts:?}");
    }
    let best = said(&mut embedded(flags));
    assert_eq!(texts(&best), [texts(&lines)[0], texts(&lines)[3]]);
}

/// Sampled captions are in the order of sampling.
#[test]
fn metadata_has_the_caption_of_the_highest_score() {
    let tiny = Tiny::new();
    let mut command = embedded("--json --do-sample --temperature 2 --num-return-sequences 4");
    for row in 0..4 {
        fs::write(tiny.path(&format!("{row}.png")), crate::common::tiny::png(row)).unwrap();
        command.arg(tiny.path(&format!("{row}.png")));
    }
    let path = tiny.path("metadata.jsonl");
    let lines = said(command.arg("--metadata").arg(&path));
    let written = json_lines(&fs::read_to_string(path).unwrap());
    let score = |line: &Value| line["score"].as_f64().unwrap();
    let best = |captions: &[Value]| {
        captions.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap()["text"].clone()
    };
    let expected: Vec<_> = lines.chunks(4).map(best).collect();
    assert_eq!(written.iter().map(|line| line["text"].clone()).collect::<Vec<_>>(), expected);
    let first: Vec<_> = lines.chunks(4).map(|captions| captions[0]["text"].clone()).collect();
    assert_ne!(first, expected, "the first is not always the best");
}

#[test]
fn metadata_that_is_there_already_is_left_alone() {
    let tiny = Tiny::new();
    fs::write(tiny.path("0.png"), crate::common::tiny::png(0)).unwrap();
    let path = tiny.path("metadata.jsonl");
    fs::write(&path, "somebody's work").unwrap();
    let mut command = embedded("");
    let refusal = run(command.arg(tiny.path("0.png")).arg("--metadata").arg(&path)).refusal(1);
    assert!(refusal.contains("metadata.jsonl exists"), "{refusal}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's work");
}

#[test]
fn bad_words_are_never_generated() {
    let flags = "--dataset embedded --rows 0,1,2 --json";
    let free = said(&mut embedded(flags));
    let word = texts(&free)[0].split(' ').nth(1).unwrap().to_owned();
    let kept = said(embedded(flags).arg("--bad-words").arg(format!("nonsense,{word}")));
    assert_ne!(texts(&kept), texts(&free));
    assert!(texts(&kept).iter().all(|text| !text.split(' ').any(|said| said == word)), "{word} in {kept:?}");
}

#[test]
fn captions_with_a_saved_adapter_equal_those_of_its_run() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("out", "--num-train-epochs 3 --learning-rate 0.02")).stdout();
    let written = json_lines(&fs::read_to_string(tiny.path("out/captions.jsonl")).unwrap());
    let rows: Vec<_> = written.iter().map(|line| line["row"].to_string()).collect();
    let rows = format!("--json --rows {} --dataset", rows.join(","));
    let base = said(tiny.caption(&rows).arg(&tiny.dataset));
    let adapted = said(tiny.caption(&rows).arg(&tiny.dataset).arg("--adapter").arg(tiny.path("out/adapter")));
    let recorded = |key: &str| written.iter().map(|line| line[key].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(texts(&base), recorded("base"));
    assert_eq!(texts(&adapted), recorded("adapter"));
    assert_ne!(texts(&base), texts(&adapted));
}

#[test]
fn bf16_and_int8_weights_caption_almost_like_f32() {
    let flags = "--dataset embedded --rows 0,1,2,3,4,5,6,7 --json --num-beams 1";
    let exact = said(&mut embedded(flags));
    for dtype in ["bf16", "int8"] {
        let lines = said(&mut embedded(&format!("{flags} --dtype {dtype}")));
        let same = texts(&lines).iter().zip(texts(&exact)).filter(|(a, b)| **a == *b).count();
        assert!(same >= 6, "{dtype}: {same} of 8 the same, {lines:?}");
    }
}

#[test]
fn uncaptionable_inputs_are_named() {
    let tiny = Tiny::new();
    let says = |command: &mut Command, code: i32, words: &[&str]| {
        let message = run(command).refusal(code);
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
    };
    says(&mut embedded(""), 2, &["IMAGE"]);
    says(&mut embedded("a.png --num-beams 0"), 2, &["--num-beams"]);
    // Each file is named once, without a row number.
    let none = tiny.path("none.png");
    let skipped = format!("skipped: {}: its file cannot be read: ", none.display());
    says(embedded("").arg(&none), SKIPPED, &[&skipped]);
    fs::write(tiny.path("text.png"), "this is no picture").unwrap();
    says(embedded("").arg(tiny.path("text.png")), SKIPPED, &["text.png: not a PNG"]);
    says(&mut embedded("--dataset embedded --rows 700"), 1, &["700"]);
    let flags = "--dataset embedded --rows 0 --max-new-tokens 5000";
    says(&mut embedded(flags), 1, &["--max-new-tokens 5000 is too long after the start token", "at most"]);
    says(embedded("--dataset embedded --adapter").arg(&tiny.checkpoint), 1, &["adapter_config.json"]);

    // An adapter of a different model does not fit.
    run(&mut tiny.finetune("out", "--max-steps 1")).stdout();
    let adapter = tiny.path("out/adapter");
    says(embedded("--dataset embedded --rows 0 --adapter").arg(adapter), 1, &["lora_A", "16", "128"]);
}

/// A folder with a linked one, files left behind by systems and notebooks, and unsupported kinds of pictures.
#[cfg(unix)]
#[test]
fn folders_are_captioned_with_linked_folders_and_a_left_out_report() {
    let (art, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |name: &str, content: &[u8]| {
        let path = art.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let png = crate::common::tiny::png(0);
    for name in ["a.png", "._a.png", "__MACOSX/._a.png", ".ipynb_checkpoints/a-checkpoint.png", ".b.png"] {
        write(name, &png);
    }
    write("b.avif", b"");
    write("c.heic", b"");
    fs::write(other.path().join("d.png"), &png).unwrap();
    std::os::unix::fs::symlink(other.path(), art.path().join("linked")).unwrap();
    let metadata = art.path().join("metadata.jsonl");
    let ended = run(embedded("").arg(art.path()).arg("--metadata").arg(&metadata));
    let (stdout, stderr) = (ended.stdout, ended.stderr);
    assert_eq!(ended.code, Some(0), "{stderr}");
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    for line in [
        "left out: 1: AVIF pictures are not read; convert them to PNG or JPEG (b.avif)",
        "left out: 1: HEIC pictures are not read; convert them to PNG or JPEG (c.heic)",
        "left out: 1: hidden (.b.png)",
    ] {
        assert!(stderr.contains(line), "{stderr}");
    }
    let names = json_lines(&fs::read_to_string(metadata).unwrap());
    let names: Vec<&str> = names.iter().map(|line| line["file_name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a.png", "linked/d.png"]);
}

#[test]
fn the_limit_of_pixels_has_a_flag() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    fs::write(&path, crate::common::tiny::png(0)).unwrap();
    let stderr = run(embedded("--max-image-pixels 100").arg(&path)).refusal(SKIPPED);
    assert!(stderr.contains("more than 100;") && stderr.contains("(--max-image-pixels)"), "{stderr}");
}
