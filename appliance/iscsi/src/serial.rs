//! Serial number arithmetic on 32 bits (RFC 1982, as RFC 7143 §4.2.2.1 asks of CmdSN, StatSN and DataSN).

/// `a` is before `b` on the circle.
#[must_use]
pub(crate) fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 0x8000_0000
}

#[cfg(test)]
mod tests {
    use super::before;

    #[test]
    fn order_survives_the_wrap() {
        assert!(before(1, 2) && !before(2, 1) && !before(2, 2));
        assert!(before(u32::MAX, 0) && !before(0, u32::MAX));
    }
}
