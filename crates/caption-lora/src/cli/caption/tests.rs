use clap::CommandFactory as _;

use super::*;
use crate::options::Decoding;

fn parse(arguments: &str) -> Result<Caption, Error> {
    CaptionFlags::from_arguments(std::iter::once("caption").chain(arguments.split_whitespace()))
}

#[test]
fn the_definition_is_sound() {
    CaptionFlags::command().debug_assert();
}

#[test]
fn options_are_none_without_flags() {
    let caption = parse("cat.png dog.png").unwrap();
    assert_eq!(caption.images, [PathBuf::from("cat.png"), PathBuf::from("dog.png")]);
    assert_eq!((caption.model, caption.adapter, caption.json), (Location::Embedded, None, false));
    assert_eq!(caption.decoding, Decoding::default());
}

#[test]
fn every_flag_of_the_design_is_there_and_no_other() {
    let designed = "model adapter device dtype threads no-cuda-graph batch-size draft num-beams max-new-tokens min-new-tokens length-penalty \
        no-repeat-ngram-size repetition-penalty early-stopping do-sample temperature top-k top-p min-p seed \
        bad-words num-return-sequences prompt json metadata dataset rows image-column prompt-column max-image-pixels";
    let mut designed: Vec<_> = designed.split_whitespace().collect();
    let command = CaptionFlags::command();
    let mut there: Vec<_> = command.get_arguments().filter_map(|flag| flag.get_long()).collect();
    designed.sort_unstable();
    there.sort_unstable();
    assert_eq!(there, designed);
}

#[test]
fn pictures_come_from_files_or_from_a_dataset_and_never_from_nowhere() {
    let rows = parse("--dataset embedded --rows 0,1,22").unwrap();
    assert_eq!((rows.dataset, rows.rows), (Some(Location::Embedded), Some(vec![0, 1, 22])));
    for arguments in
        ["", "--json", "cat.png --dataset embedded", "cat.png --rows 1", "--dataset embedded --rows 1,x"]
    {
        assert!(parse(arguments).is_err(), "{arguments}");
    }
    let message = parse("--dataset embedded --rows 0-3").unwrap_err().to_string();
    assert!(message.contains("separated by commas: 0,1,2,3"), "{message}");
}

#[test]
fn invalid_options_are_refused_before_the_checkpoint_is_read() {
    let sampled =
        parse("cat.png --do-sample --temperature 0.7 --top-k 0 --top-p 0.9 --seed 3").unwrap().decoding;
    assert_eq!((sampled.do_sample, sampled.temperature, sampled.top_k), (Some(true), Some(0.7), Some(0)));
    assert_eq!(parse("--do-sample cat.png").unwrap().images, [PathBuf::from("cat.png")]);
    assert_eq!(parse("cat.png --do-sample=false").unwrap().decoding.do_sample, Some(false));
    for arguments in [
        "--do-sample --top-p 0",
        "--do-sample --min-p 2",
        "--dtype int8 --adapter me/lora",
        "--dtype int8 --draft always",
        "--dtype int8 --device cuda",
        "--draft always --device cuda:1",
        "--prompt-column question",
        "--do-sample --temperature -1",
    ] {
        assert!(parse(&format!("cat.png {arguments}")).is_err(), "{arguments}");
    }
}

#[test]
fn the_error_for_temperature_0_suggests_greedy_decoding() {
    for arguments in ["--temperature 0", "--do-sample --temperature 0.0"] {
        let message = parse(&format!("cat.png {arguments}")).unwrap_err().to_string();
        assert!(message.contains("leave --temperature and --do-sample out"), "{message}");
    }
}

#[test]
fn a_flag_of_another_program_is_refused_with_the_equivalent() {
    for (flag, meant) in [
        ("--max-length 20", "there is no --max-length: give --max-new-tokens"),
        ("--max_length=20", "there is no --max-length: give --max-new-tokens"),
        ("--min-length 3", "give --min-new-tokens"),
        ("--beam-size 3", "give --num-beams"),
    ] {
        let message = parse(&format!("cat.png {flag}")).unwrap_err().to_string();
        assert!(message.contains(meant), "{message}");
    }
    let unknown = parse("cat.png --no-such-flag").unwrap_err().to_string();
    assert!(unknown.contains("--no-such-flag"), "{unknown}");
}

#[test]
fn a_missing_picture_and_a_negative_number_are_explained() {
    let message = parse("").unwrap_err().to_string();
    assert!(message.contains("no pictures: name files") && message.contains("--dataset"), "{message}");
    for (arguments, flag) in
        [("a.png --seed -1", "--seed"), ("a.png --no-repeat-ngram-size -1", "--no-repeat-ngram-size")]
    {
        let message = parse(arguments).unwrap_err().to_string();
        assert!(message.contains("-1") && message.contains(flag), "{message}");
        assert!(!message.contains("unexpected argument"), "{message}");
    }
}

#[test]
fn an_adapter_is_a_folder_or_a_hub_id() {
    assert_eq!(parse("a.png --adapter src/cli").unwrap().adapter, Some(Location::Local("src/cli".into())));
    assert!(matches!(parse("a.png --adapter me/lora").unwrap().adapter, Some(Location::Hub(_))));
    assert!(parse("a.png --adapter embedded").unwrap_err().to_string().contains("no embedded adapter"));
}

#[test]
fn a_penalty_may_be_negative_where_that_has_a_meaning() {
    assert_eq!(parse("a.png --length-penalty -0.5").unwrap().decoding.length_penalty, Some(-0.5));
    assert!(parse("a.png --repetition-penalty 0").is_err());
}
