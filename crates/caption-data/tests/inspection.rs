//! Every row is checked before training begins, so that all unusable rows are known by then.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;
use std::sync::Arc;

use caption_data::{ImageProcessor, Inspection, RgbImage, SourceOptions, Subset, open};
use common::message;

#[test]
fn all_broken_rows_are_found_and_the_others_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: String| folder.path().join(name);
    for row in 0..40u8 {
        let picture = RgbImage::from_pixel(3, 2, image::Rgb([row / 2; 3]));
        picture.save(path(format!("{row:02}.png"))).unwrap();
        fs::write(path(format!("{row:02}.txt")), "a bird").unwrap();
    }
    // A truncated picture, a text in place of one, an empty file, an empty caption, no caption.
    let whole = fs::read(path("03.png".into())).unwrap();
    fs::write(path("03.png".into()), &whole[..whole.len() / 2]).unwrap();
    fs::write(path("17.png".into()), "no picture").unwrap();
    fs::write(path("18.png".into()), "").unwrap();
    fs::write(path("20.txt".into()), " \n").unwrap();
    fs::remove_file(path("39.txt".into())).unwrap();
    // A picture that would be too large after resizing.
    RgbImage::new(1, 60_000).save(path("30.png".into())).unwrap();

    let source = open(folder.path(), &SourceOptions::default()).unwrap();
    fs::write(path("preprocessor_config.json".into()), r#"{"do_center_crop": false}"#).unwrap();
    let processor = ImageProcessor::from_pretrained(folder.path()).unwrap();
    for workers in [1, 3] {
        let mut seen = 0;
        let inspection =
            Inspection::new(Arc::clone(&source), processor.clone(), workers, |rows| seen += rows).unwrap();
        assert_eq!(seen, 40);
        let bad: Vec<usize> = inspection.bad.iter().map(|bad| bad.row).collect();
        assert_eq!(bad, [3, 17, 18, 20, 30, 39]);
        for (bad, words) in
            inspection.bad.iter().zip(["03.png", "17.png", "empty", "blank", "13440000", "39.txt"])
        {
            let text = message(&bad.error);
            assert!(text.contains(words), "{text}");
        }
        let pictures = &inspection.pictures;
        assert!(pictures[4] == pictures[5] && pictures[4] != pictures[6] && pictures[4].is_some());

        let usable = inspection.usable();
        assert_eq!(usable.len(), 34);
        let rest = Arc::new(Subset::new(Arc::clone(&source), usable).unwrap());
        assert!(Inspection::new(rest, processor.clone(), workers, |_| {}).unwrap().bad.is_empty());
    }
}
