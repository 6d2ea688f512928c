//! Medians and quantiles of few values.

/// The middle value; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let half = sorted.len() / 2;
    match (sorted.get(half.wrapping_sub(1)), sorted.get(half)) {
        (_, Some(high)) if sorted.len() % 2 == 1 => *high,
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => f64::NAN,
    }
}

/// The value at or below which a share `q` of the values lies; NaN of none.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let sorted = sorted(values);
    let last = sorted.len().saturating_sub(1);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a short list"
    )]
    sorted.get(((last as f64) * q).ceil() as usize).copied().unwrap_or(f64::NAN)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        for (values, middle, most) in
            [(vec![3.0, 1.0, 2.0], 2.0, 3.0), (vec![4.0, 1.0], 2.5, 4.0), (vec![7.0], 7.0, 7.0)]
        {
            assert_eq!((median(&values), quantile(&values, 1.0)), (middle, most), "{values:?}");
        }
        assert!(median(&[]).is_nan() && quantile(&[], 0.5).is_nan());
    }
}
