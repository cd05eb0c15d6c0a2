use crate::feature::FeatureKind::{
    self, Belly, Crown, Flame, Flower, Hat, Horns, Leaf, Shell, Spots, Stripes, Wings,
};
use crate::scene::Scene::{self, Cloud, Grass, Plain, Water};

/// The kind of animal that a monster looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Creature {
    Bird,
    Butterfly,
    Cat,
    Crab,
    Dragon,
    Fish,
    Ghost,
    Rabbit,
    Snake,
    Turtle,
}

impl Creature {
    /// Every creature, in alphabetical order.
    pub const ALL: [Self; 10] = [
        Self::Bird,
        Self::Butterfly,
        Self::Cat,
        Self::Crab,
        Self::Dragon,
        Self::Fish,
        Self::Ghost,
        Self::Rabbit,
        Self::Snake,
        Self::Turtle,
    ];

    /// The word that captions use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bird => "bird",
            Self::Butterfly => "butterfly",
            Self::Cat => "cat",
            Self::Crab => "crab",
            Self::Dragon => "dragon",
            Self::Fish => "fish",
            Self::Ghost => "ghost",
            Self::Rabbit => "rabbit",
            Self::Snake => "snake",
            Self::Turtle => "turtle",
        }
    }

    /// Whether it hovers in the air instead of sitting on the ground.
    pub(crate) fn flies(self) -> bool {
        matches!(self, Self::Butterfly | Self::Fish | Self::Ghost)
    }

    /// The features that this creature's body has a place for.
    pub(crate) fn features(self) -> &'static [FeatureKind] {
        match self {
            Self::Bird => &[Belly, Belly, Wings, Spots, Stripes, Leaf, Flower, Crown, Hat, Horns],
            Self::Butterfly => &[Spots, Spots, Stripes, Leaf, Flower, Crown, Hat],
            Self::Cat => &[Belly, Wings, Spots, Stripes, Leaf, Flower, Crown, Hat, Flame],
            Self::Crab => &[Spots, Stripes, Leaf, Flower, Crown, Hat],
            Self::Dragon => &[Belly, Belly, Wings, Wings, Leaf, Flower, Crown, Hat, Horns, Flame],
            Self::Fish => &[Belly, Wings, Spots, Stripes, Leaf, Flower, Crown, Hat, Horns],
            Self::Ghost => &[Belly, Belly, Wings, Spots, Leaf, Flower, Crown, Hat, Horns],
            Self::Rabbit => &[Belly, Belly, Wings, Spots, Stripes, Flower, Crown],
            Self::Snake => &[Wings, Stripes, Spots, Leaf, Flower, Crown, Hat, Horns, Flame],
            Self::Turtle => &[Shell, Shell, Shell, Leaf, Flower, Crown, Hat, Horns],
        }
    }

    /// The places that the creature can be in. A plain background is the most frequent.
    pub(crate) fn scenes(self) -> &'static [Scene] {
        match self {
            Self::Butterfly | Self::Ghost => &[Plain, Plain, Grass, Cloud],
            Self::Fish => &[Plain, Plain, Water],
            Self::Bird | Self::Crab | Self::Dragon | Self::Snake | Self::Turtle => {
                &[Plain, Plain, Plain, Grass, Water, Cloud]
            }
            Self::Cat | Self::Rabbit => &[Plain, Plain, Plain, Grass, Grass, Cloud],
        }
    }
}
