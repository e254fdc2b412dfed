//! A batch accepts segments of any lengths without allocating, once it has held the largest number of tokens and of
//! segments.

#[path = "../../ops/tests/counting/mod.rs"]
mod counting;

use hadal_model::{Input, Segment};
use hadal_ops::{Cx, DType};

#[test]
fn segments_of_any_lengths_find_room() {
    let cx = Cx::cpu(1, DType::F32);
    let tokens: Vec<i32> = (0..400).collect();
    let mut input = Input::new(&cx, 2);
    let mut set = |lens: &[usize]| {
        let ends = lens.iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        input.set(ends.zip(lens).map(|(end, len)| Segment::to_predict(&tokens[end - len..end])));
        input.tokens()
    };
    set(&[40; 10]);
    set(&[400]);
    let before = counting::calls();
    assert!(before > 0, "the counter counts");
    for lens in [&[2][..], &[399], &[3, 100, 7, 2, 80], &[40; 10], &[2; 9], &[5, 5, 5, 5, 200]] {
        assert_eq!(set(lens), lens.iter().sum::<usize>() - lens.len());
    }
    assert_eq!(counting::calls() - before, 0);
}
