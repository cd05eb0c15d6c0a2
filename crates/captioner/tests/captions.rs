//! Captions of the embedded checkpoint.

// Test helpers may panic.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use caption_data::{CaptionTokenizer, ImageProcessor};
use captioner::{Captioner, Error, GenerationConfig, RgbImage};
use git_model::{CaptionModel as _, Checkpoint, GitForCausalLm};
use train_ops::{ForwardContext, FrozenBuilder};

fn checkpoint() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../caption-lora/assets/git-monsters")
}

/// A coloured disc on a background, in a size that has to be resized and cropped.
fn disc(color: [u8; 3], background: [u8; 3]) -> RgbImage {
    RgbImage::from_fn(90, 70, |x, y| {
        let inside = (f64::from(x) - 45.0).hypot(f64::from(y) - 35.0) < 25.0;
        (if inside { color } else { background }).into()
    })
}

fn discs() -> [RgbImage; 3] {
    [
        disc([250, 220, 40], [90, 180, 90]),
        disc([60, 80, 220], [250, 250, 250]),
        disc([220, 40, 40], [30, 30, 60]),
    ]
}

#[test]
fn captions_equal_those_of_processor_model_and_tokenizer_in_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["a.png", "b.bmp", "c.webp"].map(|name| dir.path().join(name));
    let images = discs();
    images.iter().zip(&files).for_each(|(image, file)| image.save(file).unwrap());

    let mut captioner = Captioner::from_pretrained(checkpoint()).unwrap();
    captioner.config =
        GenerationConfig { num_beams: 2, num_return_sequences: 2, ..GenerationConfig::default() };
    let captions = captioner.captions(&files).unwrap();

    let model = GitForCausalLm::load(&Checkpoint::open(checkpoint()).unwrap(), &mut FrozenBuilder).unwrap();
    let tokenizer = CaptionTokenizer::from_pretrained(checkpoint()).unwrap();
    let processor = ImageProcessor::from_pretrained(checkpoint()).unwrap();
    for (index, image) in images.iter().enumerate() {
        let pixels = processor.pixel_values(std::slice::from_ref(image), model.device()).unwrap();
        let features = model.encode_images(&pixels, &ForwardContext::inference()).unwrap();
        let best = model.generate(&features, None, &captioner.config).unwrap().swap_remove(0);
        assert_eq!(captions[index], tokenizer.decode(&best.ids, true).unwrap());
        assert_eq!(captioner.caption(&files[index]).unwrap(), captions[index]);
    }
    assert!(captions.iter().all(|caption| caption.split(' ').count() > 2), "{captions:?}");
    assert!(captions[0] != captions[1] && captions[1] != captions[2], "{captions:?}");
    assert_eq!(captioner.caption_images(&[]).unwrap(), [""; 0]);
}

#[test]
fn other_files_and_mismatched_parts_are_refused_with_the_reason() {
    let captioner = Captioner::from_pretrained(checkpoint()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("notes.png");
    std::fs::write(&text, "no picture").unwrap();
    assert!(matches!(captioner.caption(&text), Err(Error::Picture { path, .. }) if path == text));
    let missing = dir.path().join("missing.png");
    assert!(matches!(captioner.caption(&missing), Err(Error::Read { path, .. }) if path == missing));
    assert!(matches!(Captioner::from_pretrained(dir.path()), Err(Error::Model(_))));

    let model =
        || GitForCausalLm::load(&Checkpoint::open(checkpoint()).unwrap(), &mut FrozenBuilder).unwrap();
    let tokenizer = || CaptionTokenizer::from_pretrained(checkpoint()).unwrap();
    let error = Captioner::new(model(), tokenizer(), ImageProcessor::default()).unwrap_err().to_string();
    assert_eq!(
        error,
        "the image processor makes pictures of (224, 224) pixels, but the model needs (64, 64)"
    );

    let words: Vec<_> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        .map(str::to_owned)
        .into_iter()
        .chain((0..100).map(|word| format!("word{word}")))
        .collect();
    std::fs::write(dir.path().join("vocab.txt"), words.join("\n")).unwrap();
    let other = CaptionTokenizer::from_pretrained(dir.path()).unwrap();
    let processor = ImageProcessor::from_pretrained(checkpoint()).unwrap();
    let error = Captioner::new(model(), other, processor).unwrap_err().to_string();
    assert!(error.contains("104 tokens") && error.contains("vocabulary has 69"), "{error}");
}

#[test]
fn an_answer_is_what_the_model_says_after_the_prompt() {
    let captioner = Captioner::from_pretrained(checkpoint()).unwrap();
    let model = GitForCausalLm::load(&Checkpoint::open(checkpoint()).unwrap(), &mut FrozenBuilder).unwrap();
    let tokenizer = CaptionTokenizer::from_pretrained(checkpoint()).unwrap();
    let processor = ImageProcessor::from_pretrained(checkpoint()).unwrap();
    let prompt = tokenizer.encode_prompt("a picture of").unwrap().ids;
    let answers = captioner.answer_images(&discs(), "a picture of").unwrap();
    for (image, answer) in discs().into_iter().zip(&answers) {
        let pixels = processor.pixel_values(&[image], model.device()).unwrap();
        let features = model.encode_images(&pixels, &ForwardContext::inference()).unwrap();
        let caption = model.generate(&features, Some(&prompt), &captioner.config).unwrap().swap_remove(0);
        assert_eq!(*answer, tokenizer.decode(&caption.ids[prompt.len()..], true).unwrap());
        assert!(!answer.is_empty() && !answer.contains("picture of"), "{answer}");
    }
}
