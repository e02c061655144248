//! Order statistics of a few measurements. No mean: one disturbed round would move it.

use std::fmt;

/// The least, the middle and the greatest of some measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// Of any measurements; all zero where there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        Self { min: quantile(values, 0.0), median: quantile(values, 0.5), max: quantile(values, 1.0) }
    }

    /// `min / median / max` with a number of decimals.
    #[must_use]
    pub fn text(&self, decimals: usize) -> String {
        format!("{:.decimals$} / {:.decimals$} / {:.decimals$}", self.min, self.median, self.max)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(2))
    }
}

/// The value below which a share `q` of the measurements lies: the nearest rank, so always one that was measured.
#[must_use]
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    // Both are small numbers of measurements, which a float holds exactly.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = ((q * sorted.len() as f64).ceil() as usize).saturating_sub(1);
    sorted.get(rank.min(last)).copied().unwrap_or(0.0)
}

/// Pair by pair, the first through the second: ratios inside one round.
#[must_use]
pub fn ratios(ours: &[f64], rival: &[f64]) -> Vec<f64> {
    ours.iter().zip(rival).map(|(a, b)| a / b).collect()
}

/// Pair by pair, the first less the second: differences inside one round.
#[must_use]
pub fn differences(ours: &[f64], rival: &[f64]) -> Vec<f64> {
    ours.iter().zip(rival).map(|(a, b)| a - b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(Spread::of(&values), Spread { min: 1.0, median: 3.0, max: 5.0 });
        assert_eq!(quantile(&values, 0.99), 5.0);
        assert_eq!(quantile(&[1.0, 2.0], 0.5), 1.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.99), 99.0);
    }

    #[test]
    fn a_ratio_is_taken_inside_a_round() {
        assert_eq!(ratios(&[2.0, 6.0], &[1.0, 2.0]), [2.0, 3.0]);
        assert_eq!(differences(&[2.0, 6.0], &[1.0, 2.0]), [1.0, 4.0]);
        assert_eq!(Spread::of(&[0.5, 1.0]).to_string(), "0.50 / 0.50 / 1.00");
    }
}
