//! `WxH`: how many tiles an image has, and how they lie.

use std::fmt;
use std::str::FromStr;

/// Tiles across and tiles down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) across: usize,
    pub(super) down: usize,
}

impl Grid {
    /// The grid of so many tiles that is nearest to a square, rather wide than high.
    pub(super) fn of(num_tiles: usize) -> Self {
        let down = (1..=num_tiles)
            .take_while(|down| down * down <= num_tiles)
            .filter(|down| num_tiles.is_multiple_of(*down))
            .last();
        let down = down.unwrap_or(1);
        Self { across: num_tiles / down, down }
    }

    /// As the encoder names it: tiles down, tiles across.
    pub(super) fn aspect_ratio(self) -> [usize; 2] {
        [self.down, self.across]
    }
}

impl FromStr for Grid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |side: &str| side.parse::<usize>().ok().filter(|side| *side > 0);
        let sides = text.split_once('x').and_then(|(across, down)| Some((parse(across)?, parse(down)?)));
        let (across, down) = sides.ok_or("tiles are named as across x down: 2x1")?;
        Ok(Self { across, down })
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}x{}", self.across, self.down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_of_a_number_is_nearly_square() {
        let grids: Vec<String> = [1, 2, 3, 4, 5, 6, 12, 16].map(|tiles| Grid::of(tiles).to_string()).into();
        assert_eq!(grids, ["1x1", "2x1", "3x1", "2x2", "5x1", "3x2", "4x3", "4x4"]);
    }
}
