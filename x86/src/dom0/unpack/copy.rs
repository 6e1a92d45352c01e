//! Copying within and into the flat output, in steps of sixteen bytes. Touches nothing but its arguments.

/// Bytes copied per step. Decoders are fastest while this many bytes of room are left behind the output.
pub(super) const STEP: usize = 16;
/// From so many bytes on, calls that copy many at once pay.
const LONG: usize = 64;

/// Repeats at `pos` the `len` bytes that begin `distance` bytes before it; the two may overlap. Up to [`STEP`] bytes
/// behind the copy may be overwritten. The caller checked `1 <= distance <= pos` and that `pos + len` is in `out`.
#[inline(always)]
pub(super) fn copy_match(out: &mut [u8], pos: usize, distance: usize, len: usize) {
    let from = pos.saturating_sub(distance);
    let end = pos.saturating_add(len);
    if distance < STEP || end.saturating_add(STEP) > out.len() {
        return copy_near(out, from, pos, end);
    }
    // Most matches are short.
    let Some(bytes) = out.get(from..).and_then(|b| b.first_chunk::<STEP>()).copied() else { return };
    let Some(place) = out.get_mut(pos..).and_then(|b| b.first_chunk_mut::<STEP>()) else { return };
    *place = bytes;
    if len > STEP {
        copy_far(out, from.wrapping_add(STEP), pos.wrapping_add(STEP), end);
    }
}

/// The rest of a long match at a distance of at least [`STEP`].
fn copy_far(out: &mut [u8], mut from: usize, mut to: usize, end: usize) {
    while to < end {
        let Some(bytes) = out.get(from..).and_then(|b| b.first_chunk::<STEP>()).copied() else { return };
        let Some(place) = out.get_mut(to..).and_then(|b| b.first_chunk_mut::<STEP>()) else { return };
        *place = bytes;
        from = from.wrapping_add(STEP);
        to = to.wrapping_add(STEP);
    }
}

/// [`copy_match`] for short distances (a repeated pattern) and for the last bytes of the buffer.
#[inline(never)]
fn copy_near(out: &mut [u8], from: usize, pos: usize, end: usize) {
    let Some(area) = out.get_mut(from..end) else { return };
    let mut pattern = pos.wrapping_sub(from);
    if pattern == 1 {
        let byte = area.first().copied().unwrap_or(0);
        area.fill(byte);
        return;
    }
    if area.len() < LONG {
        for n in pattern..area.len() {
            let byte = area.get(n.wrapping_sub(pattern)).copied().unwrap_or(0);
            if let Some(place) = area.get_mut(n) {
                *place = byte;
            }
        }
        return;
    }
    // Whole repetitions of the pattern are a pattern too: double it until all is filled.
    while pattern < area.len() {
        let (done, rest) = area.split_at_mut(pattern);
        let n = rest.len().min(pattern);
        if let (Some(to), Some(bytes)) = (rest.get_mut(..n), done.get(..n)) {
            to.copy_from_slice(bytes);
        }
        pattern = pattern.wrapping_add(n);
    }
}

/// Copies `len` bytes from the front of `from` to `pos`. Up to [`STEP`] bytes behind the copy may be overwritten. `None` if
/// `from` or `out` is too short.
#[inline(always)]
pub(super) fn copy_literals(out: &mut [u8], pos: usize, from: &[u8], len: usize) -> Option<()> {
    let end = pos.checked_add(len)?;
    let steps = len.div_ceil(STEP);
    if let Some(from) = from.as_chunks::<STEP>().0.get(..steps)
        && let Some(to) = out.get_mut(pos..).and_then(|o| o.as_chunks_mut::<STEP>().0.get_mut(..steps))
    {
        for (to, from) in to.iter_mut().zip(from) {
            *to = *from;
        }
    } else {
        out.get_mut(pos..end)?.copy_from_slice(from.get(..len)?);
    }
    Some(())
}
