//! The vertical axis of a plot.

use super::decimals;

/// How values are mapped to heights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences are equally high.
    Linear,
    /// Logarithmic, if all values are above zero and the highest is at least 8 times the lowest; else as
    /// [`Scale::Linear`]. A loss falls fast at first and then slowly, and the slow part is more interesting.
    Log,
}

/// The ratio of values from which a linear axis hides the lower ones.
const WIDE: f64 = 8.0;

/// An axis from `low` to `high`. Both are heights: the values themselves, or their logarithms to base 2.
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    log: bool,
}

impl Axis {
    /// An axis with a small margin around the values; never empty, and never below zero unless it is
    /// logarithmic.
    pub(super) fn new(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let (lowest, highest) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        if lowest > highest || (lowest, highest) == (0.0, 0.0) {
            return Self { low: 0.0, high: 1.0, log: false };
        }
        if scale == Scale::Log && lowest > 0.0 && highest >= WIDE * lowest {
            let room = 0.08 * (highest / lowest).log2();
            return Self { low: lowest.log2() - room, high: highest.log2() + room, log: true };
        }
        let room = (0.08 * (highest - lowest)).max(0.01 * highest.abs());
        Self { low: (lowest - room).max(0.0), high: highest + room, log: false }
    }

    pub(super) fn height(&self, value: f64) -> f64 {
        if self.log { value.log2() } else { value }
    }

    /// The number of labels to draw if there is space for `room` of them: at most as many as there are
    /// doublings.
    pub(super) fn labels(&self, room: u32) -> usize {
        let room = room.max(2) as usize;
        if self.log { room.min((self.high - self.low).floor() as usize + 1) } else { room }
    }

    /// The label at a height, with as many decimals as distinguish it from its neighbours, of which there are
    /// at most `room`.
    pub(super) fn label(&self, height: f64, room: u32) -> String {
        if self.log {
            let doublings = height.round();
            return number(doublings.exp2(), (-doublings).max(0.0) as usize);
        }
        number(height, decimals(self.high - self.low, room))
    }

    /// The name of the axis.
    pub(super) fn name(&self, quantity: &str) -> String {
        if self.log { format!("{quantity}, log scale") } else { quantity.to_owned() }
    }
}

/// A number with `digits` decimals or, if it is small, as a power of ten.
pub(super) fn number(value: f64, digits: usize) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        x if x < 1e-2 => format!("{value:.1e}"),
        _ => format!("{value:.digits$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_far_apart_are_drawn_by_their_ratios_and_labelled_with_powers_of_two() {
        let axis = Axis::new(Scale::Log, [8.0, 0.25, 1.0].into_iter());
        assert_eq!(axis.height(0.5) - axis.height(0.25), axis.height(8.0) - axis.height(4.0));
        assert_eq!([-2.0, 0.0, 2.999_999].map(|height| axis.label(height, 6)), ["0.25", "1", "8"]);
        // From 0.25 to 8 there are five doublings, and half of one more with the margin.
        assert_eq!([axis.labels(20), axis.labels(4)], [6, 4]);
        assert_eq!(axis.name("loss"), "loss, log scale");
        assert!(axis.low < -2.0 && axis.high > 3.0);
    }

    #[test]
    fn values_near_each_other_at_zero_or_not_asked_for_are_drawn_as_they_are() {
        for (scale, values) in [
            (Scale::Log, [1.0, 2.0, 7.9]),
            (Scale::Log, [0.0, 2.0, 100.0]),
            (Scale::Linear, [0.001, 2.0, 100.0]),
        ] {
            let axis = Axis::new(scale, values.into_iter());
            assert_eq!((axis.height(2.0), axis.name("loss").as_str()), (2.0, "loss"), "{values:?}");
        }
    }

    #[test]
    fn an_axis_is_never_empty() {
        for values in [&[][..], &[0.0], &[2.0], &[1e-6, 1e-6]] {
            for scale in [Scale::Linear, Scale::Log] {
                let axis = Axis::new(scale, values.iter().copied());
                assert!(axis.low < axis.high && axis.low >= 0.0, "{values:?}");
            }
        }
    }
}
