/// The two runs of the work of a [`DeviceGraph`](crate::DeviceGraph). The work should use different values of
/// the host in each: then the recording fails if a launch depends on a value that is not an input of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Runs without a recording.
    First,
    /// Is recorded.
    Recorded,
}
