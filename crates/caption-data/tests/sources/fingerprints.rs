//! Fingerprints of rows, and subsets.

use super::*;

#[test]
fn a_fingerprint_depends_on_a_pictures_content_and_not_on_its_path() {
    let source = open_fixture("hub.parquet").unwrap();
    let fingerprints: Vec<u128> = (0..7).map(|row| source.fingerprint(row).unwrap()).collect();
    for (row, fingerprint) in fingerprints.iter().enumerate() {
        assert!(
            !fingerprints[..row].contains(fingerprint),
            "row {row} has the fingerprint of another picture"
        );
    }
    let subset = Subset::new(Arc::clone(&source), vec![5, 2]).unwrap();
    assert_eq!([0, 1].map(|row| subset.fingerprint(row).unwrap()), [fingerprints[5], fingerprints[2]]);

    let folder = folder(&[("a.txt", "a"), ("b.txt", "b"), ("c.txt", "c")], &["a.png", "b.png", "c.png"]);
    let bytes = fs::read(folder.path().join("a.png")).unwrap();
    fs::write(folder.path().join("c.png"), &bytes).unwrap();
    let read = || {
        let source = open_folder(&folder).unwrap();
        [0, 1, 2].map(|row| source.fingerprint(row).unwrap())
    };
    let before = read();
    assert!(before[0] == before[2] && before[0] != before[1]);
    // One bit changed, whether or not the picture can still be decoded.
    let mut changed = bytes;
    *changed.last_mut().unwrap() ^= 1;
    fs::write(folder.path().join("a.png"), &changed).unwrap();
    let after = read();
    assert!(after[0] != before[0] && after[1..] == before[1..]);

    let source = open_folder(&folder).unwrap();
    fs::remove_file(folder.path().join("b.png")).unwrap();
    assert!(refusal(source.fingerprint(1)).contains("row 1 of "));
    assert!(matches!(source.fingerprint(3), Err(Error::RowOutOfRange { row: 3, .. })));
}

/// A source of pictures that are not read from files.
struct Painted(Vec<RgbImage>);

impl CaptionSource for Painted {
    fn name(&self) -> String {
        "painted".to_owned()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn caption(&self, _row: usize) -> Result<String> {
        Ok("a colour".to_owned())
    }

    fn image(&self, row: usize) -> Result<RgbImage> {
        Ok(self.0[row].clone())
    }
}

#[test]
fn fingerprints_of_generated_pictures_hash_the_pixels() {
    let of = |width, height, level| RgbImage::from_pixel(width, height, Rgb([level; 3]));
    let source = Painted(vec![of(4, 3, 7), of(4, 3, 7), of(4, 3, 8), of(3, 4, 7), of(12, 1, 7)]);
    let fingerprints: Vec<u128> = (0..5).map(|row| source.fingerprint(row).unwrap()).collect();
    assert_eq!(fingerprints[0], fingerprints[1]);
    for (i, other) in fingerprints.iter().enumerate().skip(2) {
        assert!(!fingerprints[..i].contains(other), "row {i}");
    }
}

#[test]
fn a_subset_renumbers_rows_but_its_errors_use_the_original_numbers() {
    let source = open_fixture("some_bad_rows.parquet").unwrap();
    let subset = Subset::new(Arc::clone(&source), vec![4, 3, 0]).unwrap();
    assert_eq!((subset.len(), subset.caption(0).unwrap()), (3, "cut short".to_owned()));
    assert_eq!(subset.image(2).unwrap(), picture(0));
    assert!(refusal(subset.image(1)).contains("row 3 of "));
    assert!(subset.name().ends_with("(3 of 5 rows)"), "{}", subset.name());
    assert!(matches!(subset.image(3), Err(Error::RowOutOfRange { row: 3, len: 3, .. })));
    assert!(matches!(
        Subset::new(Arc::clone(&source), vec![0, 5]),
        Err(Error::RowOutOfRange { row: 5, len: 5, .. })
    ));
    assert_eq!(Subset::first(Arc::clone(&source), 2).len(), 2);
    let all = Subset::first(Arc::clone(&source), 700);
    assert_eq!((all.len(), all.name()), (5, source.name()));
}
