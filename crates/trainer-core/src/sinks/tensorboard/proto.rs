//! The three messages of `tensorflow/core/util/event.proto` that the sink writes, as protocol buffers.

/// The first event of every file.
pub(super) fn file_version(wall_time: f64) -> Vec<u8> {
    [double(1, wall_time), bytes(3, b"brain.Event:2")].concat()
}

/// Marks a restart at `step`: TensorBoard discards earlier values at this step and later ones.
pub(super) fn restart(wall_time: f64, step: usize) -> Vec<u8> {
    const START: u64 = 1;
    [double(1, wall_time), integer(2, step as u64), bytes(7, &integer(1, START))].concat()
}

/// Values of several curves at `step`.
pub(super) fn summary(wall_time: f64, step: usize, values: &[(String, f64)]) -> Vec<u8> {
    let value = |(tag, value): &(String, f64)| {
        bytes(1, &[bytes(1, tag.as_bytes()), float(2, *value as f32)].concat())
    };
    let summary: Vec<u8> = values.iter().flat_map(value).collect();
    [double(1, wall_time), integer(2, step as u64), bytes(5, &summary)].concat()
}

fn key(field: u64, wire_type: u64) -> Vec<u8> {
    varint((field << 3) | wire_type)
}

fn integer(field: u64, value: u64) -> Vec<u8> {
    [key(field, 0), varint(value)].concat()
}

fn double(field: u64, value: f64) -> Vec<u8> {
    [key(field, 1), value.to_le_bytes().to_vec()].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [key(field, 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn float(field: u64, value: f32) -> Vec<u8> {
    [key(field, 5), value.to_le_bytes().to_vec()].concat()
}

/// Seven bits per byte, lowest first; the high bit marks that more bytes follow.
fn varint(mut value: u64) -> Vec<u8> {
    let mut encoded = Vec::new();
    while value >= 0x80 {
        encoded.push(value as u8 | 0x80);
        value >>= 7;
    }
    encoded.push(value as u8);
    encoded
}

#[cfg(test)]
mod tests {
    use super::super::record::record;
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The fixture has the bytes that TensorBoard's own classes and writer produce: see `fixtures/make_tensorboard.py`.
    #[test]
    fn events_equal_those_that_tensorboard_writes() {
        let values = [("train/loss".to_owned(), 0.25), ("eval/token_accuracy".to_owned(), 1.0 / 3.0)];
        let events = [file_version(1.5), restart(2.5, 300), summary(3.5, 70_000, &values)];
        let golden = include_str!("../../../tests/fixtures/tensorboard.hex");
        let written: Vec<String> = events.iter().map(|event| hex(&record(event))).collect();
        assert_eq!(written, golden.lines().collect::<Vec<_>>());
    }
}
