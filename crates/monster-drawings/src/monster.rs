use tiny_skia::Transform;

use crate::color::{Color, Rgb};
use crate::creature::Creature;
use crate::dice::{Dice, Stream};
use crate::feature::Feature;
use crate::scene::Scene;

/// The expression of a monster's face.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expression {
    /// An expression that captions do not mention.
    Calm,
    /// A wide smile.
    Smiling,
    /// An open mouth.
    MouthOpen,
    /// Closed eyes.
    EyesClosed,
}

/// One drawn monster: everything that its captions say, and its individual variation.
#[derive(Clone, Debug, PartialEq)]
pub struct Monster {
    /// The kind of animal that it looks like.
    pub creature: Creature,
    /// Its main colour, one of [`Color::SKINS`].
    pub color: Color,
    /// Its special feature.
    pub feature: Feature,
    /// The expression of its face. Captions mention it only on plain backgrounds.
    pub expression: Expression,
    /// The place that it is in.
    pub scene: Scene,
    pub(crate) build: Build,
}

/// The individual variation of a monster among others with the same caption.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Build {
    /// Width of the body, height of the body, size of the head, size of the eyes; 1 is the usual value.
    pub(crate) width: f32,
    pub(crate) height: f32,
    pub(crate) head: f32,
    pub(crate) eyes: f32,
    /// Eyes with a white around the pupil, instead of dark ones.
    pub(crate) round_eyes: bool,
    pub(crate) cheeks: bool,
    /// Added to red, green and blue.
    tint: [f32; 3],
    mirrored: bool,
    scale: f32,
    /// The tangent of half the angle: a tilt of 0.05 is 5.7 degrees.
    tilt: f32,
    shift: (f32, f32),
}

impl Monster {
    /// The monster of a row: a pure function of its two arguments.
    ///
    /// Rows come in rounds of 90: each block of 90 rows that begins at a multiple of 90 shows every creature
    /// in every colour once.
    pub fn new(seed: u64, row: u64) -> Self {
        let (creature, color) = deal(seed, row);
        let mut dice = Dice::new(seed, Stream::Row, row);
        let kind = dice.pick(creature.features());
        let feature = kind.color_for(color, &mut dice);
        let expression = dice.pick(&[
            Expression::Calm,
            Expression::Calm,
            Expression::Smiling,
            Expression::MouthOpen,
            Expression::EyesClosed,
        ]);
        let scene = dice.pick(creature.scenes());
        Self { creature, color, feature, expression, scene, build: Build::new(&mut dice) }
    }
}

impl Build {
    fn new(dice: &mut Dice) -> Self {
        let light = dice.between(-12.0, 10.0);
        Self {
            width: dice.between(0.92, 1.08),
            height: dice.between(0.93, 1.07),
            head: dice.between(0.93, 1.07),
            eyes: dice.between(0.88, 1.18),
            round_eyes: dice.chance(35),
            cheeks: dice.chance(50),
            tint: [(); 3].map(|()| light + dice.between(-5.0, 5.0)),
            mirrored: dice.chance(50),
            scale: dice.between(0.80, 0.95),
            tilt: dice.between(-0.05, 0.05),
            shift: (dice.between(-2.5, 2.5), dice.between(-1.5, 1.0)),
        }
    }

    pub(crate) fn tint(&self, color: Rgb) -> Rgb {
        let channel = |i: usize| (f32::from(color[i]) + self.tint[i]).clamp(0.0, 255.0) as u8;
        [channel(0), channel(1), channel(2)]
    }

    /// Scales, tilts and mirrors the monster around its feet, then moves it.
    pub(crate) fn placement(&self) -> Transform {
        const FEET: (f32, f32) = (50.0, 90.0);
        // The rational parametrisation of the circle needs no sine or cosine.
        let t2 = self.tilt * self.tilt;
        let (cos, sin) = ((1.0 - t2) / (1.0 + t2) * self.scale, 2.0 * self.tilt / (1.0 + t2) * self.scale);
        let side = if self.mirrored { -1.0 } else { 1.0 };
        Transform::from_row(cos * side, sin * side, -sin, cos, FEET.0 + self.shift.0, FEET.1 + self.shift.1)
            .pre_translate(-FEET.0, -FEET.1)
    }
}

/// The creature and colour of a row: each pair once per round, with as many rows in a round as there are
/// pairs, in an order that is shuffled for every round (Fisher-Yates).
fn deal(seed: u64, row: u64) -> (Creature, Color) {
    const COLORS: usize = Color::SKINS.len();
    const PAIRS: usize = Creature::ALL.len() * COLORS;
    let (round, place) = (row / PAIRS as u64, (row % PAIRS as u64) as usize);
    let mut dice = Dice::new(seed, Stream::Deal, round);
    let mut pairs: [usize; PAIRS] = std::array::from_fn(|i| i);
    for last in (1..PAIRS).rev() {
        pairs.swap(last, dice.below(last + 1));
    }
    (Creature::ALL[pairs[place] / COLORS], Color::SKINS[pairs[place] % COLORS])
}
