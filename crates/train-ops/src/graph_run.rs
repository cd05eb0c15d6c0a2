/// The two runs of the work of a [`DeviceGraph`](crate::DeviceGraph). If the host's values in them differ, the recording shows that
/// nothing but the graph's inputs depends on those: it fails otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Runs as always.
    First,
    /// Is recorded.
    Recorded,
}
