//! Sorting of short lists. Touches nothing but its argument.
//!
//! The library's sorts are made for long lists and are five to ten kilobytes of code for each type; the lists here have a few
//! dozen entries at most, or are nearly in order.

/// Sorts by insertion; equals stay in order. The work is quadratic at worst, and linear for a list that is in order.
pub fn sort_by_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    for length in 1..=items.len() {
        let Some((last, mut sorted)) = items.get_mut(..length).and_then(<[T]>::split_last_mut) else { return };
        let mut last = last;
        while let Some((before, rest)) = sorted.split_last_mut() {
            if key(before) <= key(last) {
                break;
            }
            core::mem::swap(before, last);
            (last, sorted) = (before, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_library(mut items in proptest::collection::vec((0u8..8, 0u32..100), 0..50)) {
            let mut expected = items.clone();
            expected.sort_by_key(|item| item.0);
            sort_by_key(&mut items, |item| item.0);
            prop_assert_eq!(items, expected);
        }
    }
}
