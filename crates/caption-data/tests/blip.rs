//! BLIP's image processor and its start token, compared with transformers (fixtures/make_blip.py).

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;

use caption_data::{CaptionTokenizer, ImageDecoder, ImageProcessor};
use common::{fixture, fnv, json, numbers};
use serde_json::{Value, json};

fn processor(config: &Value) -> ImageProcessor {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("preprocessor_config.json"), config.to_string()).unwrap();
    ImageProcessor::from_pretrained(folder.path()).unwrap()
}

#[test]
fn pictures_are_resized_to_a_square_and_not_cropped() {
    let golden = json("blip.json");
    let name = "BlipImageProcessor";
    for (size, config, output) in [
        ("384x384", json!({ "image_processor_type": name }), (384, 384)),
        ("384x384", json!({ "image_processor_type": name, "size": 384 }), (384, 384)),
        ("56x40", json!({ "image_processor_type": name, "size": { "height": 56, "width": 40 } }), (56, 40)),
    ] {
        let processor = processor(&config);
        assert_eq!(processor.output_size(), Some(output));
        let pictures = golden["pictures"][size].as_object().unwrap();
        assert_eq!(pictures.len(), 8);
        for (name, hash) in pictures {
            let file = fs::read(fixture("images").join(name)).unwrap();
            let image = ImageDecoder::default().decode(&file).unwrap();
            let resized = processor.resize_and_crop(&image).unwrap();
            assert_eq!(&fnv(resized.as_raw().iter().copied()), hash, "{name} at {size}");
        }
    }
}

#[test]
fn levels_have_the_values_of_transformers() {
    let golden = json("blip.json");
    let processor = processor(&json!({ "image_processor_type": "BlipImageProcessor" }));
    for (level, expected) in [0, 100, 255].into_iter().zip(golden["values"].as_array().unwrap()) {
        let pixel = caption_data::RgbImage::from_pixel(1, 1, image::Rgb([level; 3]));
        let values: Vec<u32> = processor.normalize(&pixel).into_iter().map(f32::to_bits).collect();
        assert_eq!(values, numbers::<u32>(expected), "level {level}");
    }
}

/// A checkpoint's folder with a tokenizer that has `[DEC]` and `[ENC]`, or with that of BERT, as the published ones have.
fn tokenizer(with_dec: bool) -> CaptionTokenizer {
    let folder = tempfile::tempdir().unwrap();
    for file in ["vocab.txt", "tokenizer_config.json"] {
        fs::copy(fixture("tokenizer").join(file), folder.path().join(file)).unwrap();
    }
    if with_dec {
        let words = fs::read_to_string(fixture("tokenizer/vocab.txt")).unwrap();
        let words = words.lines().zip(0..).map(|(word, id): (_, u32)| (word.to_owned(), Value::from(id)));
        let mut tokenizer = json("tokenizer/tokenizer_without_vocab.json");
        tokenizer["model"]["vocab"] = words.collect();
        for (id, content) in [(30522, "[DEC]"), (30523, "[ENC]")] {
            let mut token = tokenizer["added_tokens"][0].clone();
            (token["id"], token["content"]) = (id.into(), content.into());
            tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
        }
        fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    }
    CaptionTokenizer::from_pretrained(folder.path()).unwrap()
}

#[test]
fn captions_begin_with_dec_whether_the_vocabulary_has_it_or_not() {
    let golden = json("blip.json");
    for with_dec in [true, false] {
        let tokenizer = tokenizer(with_dec).starting_with(30522);
        assert_eq!((tokenizer.start_id(), tokenizer.cls_id()), (30522, 101));
        assert_eq!(tokenizer.vocab_size(), if with_dec { 30524 } else { 30522 });
        for caption in golden["captions"].as_array().unwrap() {
            let (text, ids) = (caption["text"].as_str().unwrap(), numbers::<u32>(&caption["ids"]));
            if !with_dec && text.contains("[") {
                continue;
            }
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
            assert_eq!(tokenizer.encode_prompt(text).unwrap().ids, ids[..ids.len() - 1], "{text:?}");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), caption["decoded"], "{text:?}");
            assert_eq!(tokenizer.is_unknown(&ids), text.is_empty(), "{text:?}");
        }
    }
}
