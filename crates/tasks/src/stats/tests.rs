//! Statistics against brute force and against tables.

use proptest::prelude::*;

use super::*;

#[test]
fn the_quantiles_are_those_of_tables() {
    // Tables of Student's distribution, to three digits behind the point.
    for (degrees, expected) in [
        (1, 12.706),
        (2, 4.303),
        (3, 3.182),
        (4, 2.776),
        (5, 2.571),
        (10, 2.228),
        (29, 2.045),
        (120, 1.980),
        (1000, 1.962),
        (1001, 1.962),
    ] {
        let quantile = t_quantile(degrees).unwrap();
        assert!((quantile - expected).abs() < 6e-4, "{degrees}: {quantile}");
    }
    assert!((t_quantile(1000).unwrap() - t_quantile(1001).unwrap()).abs() < 1e-5);
    assert_eq!(t_quantile(0), None);
}

#[test]
fn pass_at_k_is_the_share_of_choices_with_a_right_answer() {
    // Every choice of k of n answers, counted one by one.
    for n in 1..=9usize {
        for right in 0..=n {
            for k in 1..=n {
                let (mut hits, mut all) = (0, 0);
                for choice in 0u32..1 << n {
                    if choice.count_ones() as usize == k {
                        all += 1;
                        hits += usize::from(choice & ((1 << right) - 1) != 0);
                    }
                }
                let expected = hits as f64 / all as f64;
                assert!((pass_at_k(n, right, k).unwrap() - expected).abs() < 1e-12, "{n} {right} {k}");
            }
        }
    }
    assert_eq!(pass_at_k(3, 1, 4), None);
    assert_eq!(pass_at_k(3, 4, 1), None);
}

#[test]
fn the_majority_is_the_first_of_the_most_frequent() {
    assert_eq!(majority(&["a", "b", "b", "a", "c"]), Some(0));
    assert_eq!(majority(&["c", "b", "b"]), Some(1));
    assert_eq!(majority::<i32>(&[]), None);
    let questions = vec![
        vec![("1".to_owned(), false), ("2".to_owned(), true), ("2".to_owned(), true)],
        vec![("1".to_owned(), true), ("2".to_owned(), false), ("3".to_owned(), false)],
    ];
    assert_eq!(majority_values(&questions, 3).unwrap(), [[1.0], [1.0]]);
    assert_eq!(majority_values(&questions, 1).unwrap(), [[0.0], [1.0]]);
    assert_eq!(majority_values(&questions, 4), None);
}

#[test]
fn a_paired_difference_is_surer_than_two_means() {
    // Both models find the same questions hard, and the first is better by 0.1 on each.
    let hard: Vec<f64> = (0..40).map(|i| f64::from(i % 7) / 10.0).collect();
    let first: Vec<Vec<f64>> = hard.iter().enumerate().map(|(i, x)| vec![x + 0.1 + 0.01 * (i % 2) as f64]).collect();
    let second: Vec<Vec<f64>> = hard.iter().map(|x| vec![*x]).collect();
    let difference = paired(&first, &second).unwrap();
    assert!((difference.mean - 0.105).abs() < 1e-12);
    assert!(difference.standard_error.unwrap() < 0.1 * clustered(&first).unwrap().standard_error.unwrap());
    assert_eq!(paired(&first, &second[1..]), None);
}

#[test]
fn intervals_contain_the_truth_as_often_as_they_say() {
    // Clusters of four values that share a part. An interval that ignored them would contain the truth far less often.
    let rng = hadal_base::Rng::new(1, hadal_base::Purpose::Test, 0);
    let (mut inside, mut naive) = (0, 0);
    let rounds = 1000;
    for round in 0..rounds {
        let draws = rng.substream(round);
        let groups: Vec<Vec<f64>> = (0..30)
            .map(|g| (0..4).map(|i| draws.normal(10 * g) + 0.5 * draws.normal(10 * g + 1 + i)).collect())
            .collect();
        let estimate = clustered(&groups).unwrap();
        let (low, high) = estimate.interval().unwrap();
        inside += usize::from(low <= 0.0 && 0.0 <= high);
        let flat: Vec<f64> = groups.concat();
        naive += usize::from(mean(&flat).abs() <= 1.98 * standard_error(&flat));
    }
    // 950 expected, with a standard deviation of 7.
    assert!((915..=985).contains(&inside), "{inside}");
    assert!(naive < 800, "{naive}");
}

proptest! {
    #[test]
    fn one_value_a_question_gives_the_plain_error(values in prop::collection::vec(-5.0f64..5.0, 2..40)) {
        let groups: Vec<Vec<f64>> = values.iter().map(|x| vec![*x]).collect();
        let estimate = clustered(&groups).unwrap();
        prop_assert!((estimate.standard_error.unwrap() - standard_error(&values)).abs() < 1e-12);
        prop_assert!((estimate.mean - mean(&values)).abs() < 1e-12);
    }

    #[test]
    fn repeating_every_answer_tells_nothing_new(values in prop::collection::vec(0.0f64..1.0, 2..20), times in 1usize..5) {
        let once: Vec<Vec<f64>> = values.iter().map(|x| vec![*x]).collect();
        let often: Vec<Vec<f64>> = values.iter().map(|x| vec![*x; times]).collect();
        let (a, b) = (clustered(&once).unwrap(), clustered(&often).unwrap());
        prop_assert!((a.mean - b.mean).abs() < 1e-12);
        prop_assert!((a.standard_error.unwrap() - b.standard_error.unwrap()).abs() < 1e-12);
    }
}

#[test]
fn wilsons_interval_has_the_shares_that_would_not_be_rejected() {
    // Its ends are the shares p with (right / n - p)^2 = z^2 p (1 - p) / n: solved here by bisection.
    let z2 = 1.959_963_984_540_054_f64.powi(2);
    for (right, n) in [(0, 1), (1, 1), (0, 50), (1, 50), (25, 50), (50, 50), (3, 1319)] {
        let values: Vec<Vec<f64>> = (0..n).map(|i| vec![f64::from(u8::from(i < right))]).collect();
        let (low, high) = interval(&values).unwrap();
        let share = right as f64 / n as f64;
        let rejected = |p: f64| (share - p).powi(2) > z2 * p * (1.0 - p) / n as f64;
        let end = |outside: f64| {
            let (mut out, mut inside) = (outside, share);
            for _ in 0..100 {
                let middle = f64::midpoint(out, inside);
                if rejected(middle) { out = middle } else { inside = middle }
            }
            inside
        };
        assert!((low - end(0.0)).abs() < 1e-9 && (high - end(1.0)).abs() < 1e-9, "{right} of {n}: {low} {high}");
    }
    // Several answers to a question that are all the same count once. Others have the clustered interval.
    assert_eq!(interval(&[vec![0.0; 4], vec![0.0; 4]]), interval(&[vec![0.0], vec![0.0]]));
    let mixed = [vec![0.0, 1.0], vec![1.0, 1.0], vec![0.0, 0.0]];
    assert_eq!(interval(&mixed), clustered(&mixed).unwrap().interval());
    assert_eq!(interval(&[]), None);
}

#[test]
fn a_ratio_of_equal_weights_is_a_mean_and_its_error_is_close_to_leaving_each_out() {
    let values = [3.0, 4.0, 8.0, 1.5, 2.0];
    let equal: Vec<(f64, f64)> = values.iter().map(|x| (*x, 2.0)).collect();
    let mean = clustered(&values.map(|x| vec![x / 2.0])).unwrap();
    let found = ratio(&equal).unwrap();
    assert!((found.mean - mean.mean).abs() < 1e-12);
    assert!((found.standard_error.unwrap() - mean.standard_error.unwrap()).abs() < 1e-12);
    // The jackknife: the variance of the ratios without one pair each.
    let pairs: Vec<(f64, f64)> =
        (0..200).map(|i| (f64::from(i % 7) + f64::from(i % 3), 1.0 + f64::from(i % 5))).collect();
    let whole = |skip: usize| {
        let left = pairs.iter().enumerate().filter(|(at, _)| *at != skip).map(|(_, pair)| *pair);
        let (x, w) = left.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        x / w
    };
    let n = pairs.len() as f64;
    let without: Vec<f64> = (0..pairs.len()).map(whole).collect();
    let center = super::mean(&without);
    let jackknife = ((n - 1.0) / n * without.iter().map(|r| (r - center).powi(2)).sum::<f64>()).sqrt();
    let found = ratio(&pairs).unwrap();
    assert!((found.standard_error.unwrap() / jackknife - 1.0).abs() < 0.02, "{found:?} {jackknife}");
    assert_eq!(ratio(&[]), None);
}
