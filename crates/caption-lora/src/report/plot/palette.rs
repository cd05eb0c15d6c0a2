//! The colours of the plots, on light and dark backgrounds.

use plotters::style::RGBColor;

use super::Style;

pub(super) struct Palette {
    pub(super) ground: RGBColor,
    pub(super) ink: RGBColor,
    pub(super) grid: RGBColor,
    pub(super) training: RGBColor,
    pub(super) validation: RGBColor,
    /// Colours that people with any kind of colour vision can tell apart (Okabe and Ito), in an order that
    /// suits the background.
    pub(super) curves: [RGBColor; 7],
}

const LIGHT: Palette = Palette {
    ground: RGBColor(255, 255, 255),
    ink: RGBColor(75, 85, 99),
    grid: RGBColor(229, 231, 235),
    training: RGBColor(59, 130, 196),
    validation: RGBColor(194, 65, 12),
    curves: [
        RGBColor(0, 114, 178),
        RGBColor(213, 94, 0),
        RGBColor(0, 158, 115),
        RGBColor(204, 121, 167),
        RGBColor(230, 159, 0),
        RGBColor(86, 180, 233),
        RGBColor(130, 130, 130),
    ],
};

/// The background is that of the report's cards.
const DARK: Palette = Palette {
    ground: RGBColor(29, 33, 40),
    ink: RGBColor(168, 176, 188),
    grid: RGBColor(52, 58, 68),
    training: RGBColor(104, 166, 224),
    validation: RGBColor(251, 146, 90),
    curves: [
        RGBColor(86, 180, 233),
        RGBColor(230, 159, 0),
        RGBColor(0, 190, 140),
        RGBColor(224, 141, 187),
        RGBColor(240, 228, 66),
        RGBColor(213, 110, 40),
        RGBColor(160, 160, 160),
    ],
};

impl Palette {
    pub(super) fn of(style: Style) -> Self {
        if style.dark { DARK } else { LIGHT }
    }
}
