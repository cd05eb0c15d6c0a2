/// A red, green and blue byte.
pub(crate) type Rgb = [u8; 3];

/// A colour that captions name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Color {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
    Brown,
    Gray,
    White,
    Black,
}

impl Color {
    /// Every colour: first the nine of monsters, then white and black, which only features have.
    pub const ALL: [Self; 11] = [
        Self::Red,
        Self::Orange,
        Self::Yellow,
        Self::Green,
        Self::Blue,
        Self::Purple,
        Self::Pink,
        Self::Brown,
        Self::Gray,
        Self::White,
        Self::Black,
    ];

    /// The colours that a monster can have.
    pub const SKINS: [Self; 9] = {
        let [a, b, c, d, e, f, g, h, i, ..] = Self::ALL;
        [a, b, c, d, e, f, g, h, i]
    };

    /// The word that captions use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Orange => "orange",
            Self::Yellow => "yellow",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Purple => "purple",
            Self::Pink => "pink",
            Self::Brown => "brown",
            Self::Gray => "gray",
            Self::White => "white",
            Self::Black => "black",
        }
    }

    /// The colour before shading and individual variation.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [226, 58, 54],
            Self::Orange => [247, 142, 40],
            Self::Yellow => [252, 216, 66],
            Self::Green => [92, 182, 82],
            Self::Blue => [66, 134, 226],
            Self::Purple => [144, 88, 192],
            Self::Pink => [248, 152, 190],
            Self::Brown => [146, 96, 58],
            Self::Gray => [156, 160, 168],
            Self::White => [252, 252, 250],
            Self::Black => [58, 54, 64],
        }
    }

    /// Whether a feature in `other` stands out on a monster of this colour.
    pub(crate) fn contrasts_with(self, other: Self) -> bool {
        let distance: i32 =
            self.rgb().iter().zip(other.rgb()).map(|(&a, b)| (i32::from(a) - i32::from(b)).pow(2)).sum();
        distance > 120 * 120
    }
}

/// `from` moved towards `to` by `share` (0 keeps it, 1 replaces it).
pub(crate) fn blend(from: Rgb, to: Rgb, share: f32) -> Rgb {
    let channel = |i: usize| {
        let (a, b) = (f32::from(from[i]), f32::from(to[i]));
        (a + (b - a) * share + 0.5) as u8
    };
    [channel(0), channel(1), channel(2)]
}
