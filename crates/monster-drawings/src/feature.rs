use crate::color::Color;
use crate::dice::Dice;

/// A monster's special feature, with the colour that its caption names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// A belly of another colour.
    Belly(Color),
    /// A golden crown on its head.
    Crown,
    /// A flame on its tail.
    Flame,
    /// A flower on its head.
    Flower(Color),
    /// A pointed hat.
    Hat(Color),
    /// Two horns on its head.
    Horns,
    /// A pair of green leaves on its head; captions call it a leaf.
    Leaf,
    /// A shell of another colour on its back.
    Shell(Color),
    /// Spots all over.
    Spots(Color),
    /// Stripes across its body.
    Stripes(Color),
    /// Large wings.
    Wings(Color),
}

/// A kind of feature whose colour is not chosen yet.
#[derive(Clone, Copy)]
pub(crate) enum FeatureKind {
    Belly,
    Crown,
    Flame,
    Flower,
    Hat,
    Horns,
    Leaf,
    Shell,
    Spots,
    Stripes,
    Wings,
}

impl FeatureKind {
    /// Chooses a colour that suits the feature and stands out on `skin`.
    pub(crate) fn color_for(self, skin: Color, dice: &mut Dice) -> Feature {
        use Color::{Black, Blue, Green, Orange, Pink, Purple, Red, White, Yellow};
        let mut of = |choices: &[Color]| {
            let fitting: Vec<Color> =
                choices.iter().copied().filter(|&color| skin.contrasts_with(color)).collect();
            dice.pick(&fitting)
        };
        match self {
            Self::Belly => Feature::Belly(of(&[White, White, Yellow, Orange, Blue, Pink, Green])),
            Self::Flower => Feature::Flower(of(&[White, Yellow, Red, Blue, Pink, Purple])),
            Self::Hat => Feature::Hat(of(&[White, Black, Yellow, Red, Blue, Pink, Purple, Green])),
            Self::Shell => Feature::Shell(of(&[Yellow, Red, Orange, Blue, Pink, Purple, Green])),
            Self::Spots => Feature::Spots(of(&[White, Black, Yellow, Red, Blue])),
            Self::Stripes => Feature::Stripes(of(&[White, Black, Yellow, Red, Blue])),
            Self::Wings => Feature::Wings(of(&[White, Yellow, Red, Blue, Pink, Purple, Green])),
            Self::Crown => Feature::Crown,
            Self::Flame => Feature::Flame,
            Self::Horns => Feature::Horns,
            Self::Leaf => Feature::Leaf,
        }
    }
}

impl Feature {
    /// The colour that captions name, if any.
    pub fn color(self) -> Option<Color> {
        match self {
            Self::Belly(color)
            | Self::Flower(color)
            | Self::Hat(color)
            | Self::Shell(color)
            | Self::Spots(color)
            | Self::Stripes(color)
            | Self::Wings(color) => Some(color),
            Self::Crown | Self::Flame | Self::Horns | Self::Leaf => None,
        }
    }

    /// Whether it sits on top of the head.
    pub(crate) fn is_headwear(self) -> bool {
        matches!(self, Self::Crown | Self::Flower(_) | Self::Hat(_) | Self::Horns | Self::Leaf)
    }
}
