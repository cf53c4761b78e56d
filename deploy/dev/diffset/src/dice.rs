//! Chance that is the same tomorrow.
//!
//! Owns the generator (SplitMix64) and the few distributions that the set needs.

/// Above it a Poisson number is drawn as a rounded normal one.
const NORMAL_FROM: f64 = 30.0;

/// A seeded source.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Different seeds give unrelated sequences.
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 to below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.unit() * end as f64) as usize % end.max(1)
    }

    /// A Poisson number.
    pub(crate) fn poisson(&mut self, mean: f64) -> u32 {
        if mean > NORMAL_FROM {
            let (u, v) = (1.0 - self.unit(), self.unit());
            let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
            return (mean + mean.sqrt() * normal).round().max(0.0) as u32;
        }
        let (limit, mut product, mut n) = ((-mean).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            n += 1;
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn numbers_have_the_mean_and_the_variance_they_should() {
        let mut dice = Dice::new(5);
        for mean in [0.3, 4.0, 60.0] {
            let drawn: Vec<f64> = (0..40_000).map(|_| f64::from(dice.poisson(mean))).collect();
            let seen = drawn.iter().sum::<f64>() / 40_000.0;
            let variance = drawn.iter().map(|x| (x - seen).powi(2)).sum::<f64>() / 40_000.0;
            assert!((seen / mean - 1.0).abs() < 0.02 && (variance / mean - 1.0).abs() < 0.05, "{mean}");
        }
    }
}
