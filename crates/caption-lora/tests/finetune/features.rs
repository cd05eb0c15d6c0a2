//! `--feature-cache-dir` and `--feature-cache-memory`: the same numbers with less work or less memory.

use std::fs;
use std::path::Path;

use crate::common::programs::{contents, json, run, steps};
use crate::common::tiny::{ROWS, Tiny, drawings, png, write_columns};
use caption_data::CaptionSource;
use serde_json::Value;

/// All numbers of a run: its steps, scores and captions.
fn numbers(out: &Path) -> (Vec<Value>, Value, String) {
    let captions = fs::read_to_string(out.join("captions.jsonl")).unwrap();
    (steps(out), json(&out.join("metrics.json")), captions)
}

/// Runs two epochs; returns the printed lines about features, the warnings, and all numbers.
fn features(tiny: &Tiny, flags: &str) -> (String, String, (Vec<Value>, Value, String)) {
    let mut command = tiny.finetune("out", "--num-train-epochs 2 --learning-rate 0.01");
    for flag in flags.split_whitespace() {
        // A name that begins with @ is a path in the temporary folder.
        command.arg(flag.strip_prefix('@').map_or(flag.into(), |name| tiny.path(name)));
    }
    let ended = run(&mut command);
    let warnings: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| line.starts_with("warning: ") && !line.contains("debug build"))
        .collect();
    let warnings = warnings.join("\n");
    let stdout = ended.stdout();
    let line = stdout.lines().find_map(|line| line.trim_start().strip_prefix("features  "));
    let result = (line.unwrap_or_default().to_owned(), warnings, numbers(&tiny.path("out")));
    let files = contents(&tiny.path("out"));
    assert!(files.iter().all(|(path, _)| !path.to_str().unwrap().contains("features")), "{files:?}");
    fs::remove_dir_all(tiny.path("out")).unwrap();
    result
}

#[test]
fn a_file_and_an_earlier_run_change_no_bit_of_a_run() {
    let tiny = Tiny::new();
    let cache = tiny.path("cache").display().to_string();
    let (said, _, plain) = features(&tiny, "");
    assert_eq!(said, "20 encoded; 0 MB in memory");
    for (flags, expected) in [
        ("--feature-cache-memory 0MB", "20 encoded; 0 MB in files".to_owned()),
        ("--feature-cache-dir @cache", format!("20 encoded, 0 from {cache}; 0 MB in memory")),
        ("--feature-cache-dir @cache", format!("0 encoded, 20 from {cache}; 0 MB in memory")),
        (
            "--feature-cache-dir @cache --feature-cache-memory 0MB",
            format!("0 encoded, 20 from {cache}; 0 MB in files"),
        ),
    ] {
        let (said, _, numbers) = features(&tiny, flags);
        assert_eq!(said, expected, "{flags}");
        assert_eq!(numbers, plain, "{flags}");
    }
}

#[test]
fn only_changed_pictures_are_encoded_again() {
    let tiny = Tiny::new();
    let encoded = |flags: &str| {
        let (said, warnings, numbers) = features(&tiny, &format!("--feature-cache-dir @cache {flags}"));
        assert_eq!(warnings, "");
        (said.split(" encoded").next().unwrap().parse::<usize>().unwrap(), numbers)
    };
    assert_eq!(encoded("").0, ROWS);
    assert_eq!(encoded("--seed 7 --split-seed 3 --no-shuffle --lora-r 2").0, 0);
    assert_eq!(encoded("--dtype bf16").0, ROWS);
    assert_eq!([encoded("--dtype bf16").0, encoded("").0], [0, 0]);
    assert_eq!([encoded("--dtype int8").0, encoded("--dtype int8").0, encoded("").0], [ROWS, 0, 0]);

    // One picture, and all captions.
    let captions =
        (0..ROWS).map(|row| format!("it is {}", drawings().caption(row).unwrap()).into_bytes()).collect();
    let pictures = (0..ROWS).map(|row| if row == 5 { png(6) } else { png(row) }).collect();
    write_columns(&tiny.dataset, pictures, captions);
    // Row 5 has the picture of row 6 now, which is cached.
    assert_eq!(encoded("").0, 0);
    let (_, _, fresh) = features(&tiny, "");
    assert_eq!(encoded("").1, fresh);
    let captions = (0..ROWS).map(|row| drawings().caption(row).unwrap().into_bytes()).collect();
    let mut pictures: Vec<_> = (0..ROWS).map(png).collect();
    pictures[9] = recoloured(9);
    write_columns(&tiny.dataset, pictures, captions);
    let (count, numbers) = encoded("");
    assert_eq!((count, numbers), (1, features(&tiny, "").2));

    // Features depend on the encoder's weights and the preprocessing, but not on the decoder.
    tiny.set_weight("git.encoder.layer.0.attention.self.query.weight", 3, 0.5);
    assert_eq!(encoded("").0, 0);
    tiny.set_weight("git.image_encoder.vision_model.encoder.layers.0.mlp.fc1.weight", 3, 0.5);
    assert_eq!((encoded("").0, encoded("").0), (ROWS, 0));
    let path = tiny.checkpoint.join("preprocessor_config.json");
    let mut processor = json(&path);
    processor["image_mean"] = serde_json::json!([0.5, 0.5, 0.5]);
    fs::write(&path, processor.to_string()).unwrap();
    let (count, numbers) = encoded("");
    assert_eq!((count, numbers), (ROWS, features(&tiny, "").2));
}

/// A picture of the dataset with one pixel changed.
fn recoloured(row: usize) -> Vec<u8> {
    let mut picture = drawings().image(row).unwrap();
    picture.get_pixel_mut(16, 16).0 = [255, 0, 128];
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn damaged_feature_files_are_reported_and_recomputed() {
    let tiny = Tiny::new();
    let (_, _, plain) = features(&tiny, "--feature-cache-dir @cache");
    let (path, mut bytes) = contents(&tiny.path("cache")).remove(0);
    bytes.truncate(bytes.len() - 100);
    fs::write(&path, &bytes).unwrap();
    let (said, warnings, numbers) = features(&tiny, "--feature-cache-dir @cache");
    assert!(said.starts_with("20 encoded, 0 from "), "{said}");
    for words in [path.to_str().unwrap(), "is of no use: it has ", "computed again"] {
        assert!(warnings.contains(words), "{warnings}");
    }
    assert_eq!(numbers, plain);
    let (said, warnings, _) = features(&tiny, "--feature-cache-dir @cache");
    assert!(said.starts_with("0 encoded, 20 from ") && !warnings.contains("features"), "{said} {warnings}");
}

#[test]
fn unusable_folders_are_named_with_the_flag() {
    let tiny = Tiny::new();
    fs::write(tiny.path("file"), "not a folder").unwrap();
    let mut command = tiny.finetune("out", "--max-steps 1 --feature-cache-dir");
    let message = run(command.arg(tiny.path("file/cache"))).refusal(1);
    assert!(message.contains(tiny.path("file/cache").to_str().unwrap()), "{message}");
    // Target modules that match layers of the encoder although its name does not occur in them.
    let flags = "--max-steps 1 --tune both --target-modules q_proj --feature-cache-memory 1GB";
    let message = run(&mut tiny.finetune("out", flags)).refusal(1);
    assert!(
        message.contains("--feature-cache-memory does nothing, as the vision encoder is trained"),
        "{message}"
    );
}

#[test]
fn the_runs_of_a_sweep_share_a_temporary_feature_file() {
    let tiny = Tiny::new();
    let flags = "--max-steps 2 --feature-cache-memory 0MB --sweep r=2,4";
    let stdout = run(&mut tiny.finetune("sweep", flags)).stdout();
    assert_eq!(stdout.matches("20 encoded; 0 MB in files").count(), 1, "{stdout}");
    let alone = "--max-steps 2 --feature-cache-memory 0MB --lora-r 4";
    run(&mut tiny.finetune("alone", alone)).stdout();
    assert_eq!(steps(&tiny.path("sweep/r-4")), steps(&tiny.path("alone")));
}
