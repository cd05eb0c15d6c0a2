/// The place that a monster is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scene {
    /// White paper.
    Plain,
    /// On the grass, or above it.
    Grass,
    /// In the water.
    Water,
    /// On a cloud, or above one.
    Cloud,
}
