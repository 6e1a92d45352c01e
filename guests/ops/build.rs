//! Hands the linker the guest's layout. Only the bare-metal target is linked with it.

fn main() {
    println!("cargo:rerun-if-changed=../kernel/link.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg=-T{dir}/../kernel/link.ld");
        println!("cargo:rustc-link-arg=-zmax-page-size=4096");
    }
}
