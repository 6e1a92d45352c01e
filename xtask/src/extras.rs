//! What the flavour `full` has besides Xen's tools: libvirt with its driver for Xen, and Debian's QEMU for Xen, which
//! serves qcow2 disks, shared folders and frame buffers to guests.
//!
//! The packages come by the rules of [`crate::packages`], but have a folder of their own: whoever does without this
//! flavour need not download them.

use std::path::PathBuf;

use anyhow::Result;

use crate::packages::{self, Package, pin};

const LIBVIRT: &str = "9.0.0-4+deb12u2";
const QEMU: &str = "1:7.2+dfsg-7+deb12u18+b3";
const KERBEROS: &str = "1.20.1-2+deb12u5";

/// libvirt, QEMU, and the libraries that these need and Xen's tools do not.
const PACKAGES: &[Package] = &[
    pin("libacl1", "2.3.1-3"),
    pin("libaio1", "0.3.113-4"),
    pin("libapparmor1", "3.0.8-3"),
    pin("libaudit1", "1:3.0.9-1"),
    pin("libblkid1", "2.38.1-5+deb12u3"),
    pin("libbrotli1", "1.0.9-2+deb12u1"),
    pin("libcap-ng0", "0.8.3-1+b3"),
    pin("libcurl3-gnutls", "7.88.1-10+deb12u15"),
    pin("libdw1", "0.188-2.1"),
    pin("libelf1", "0.188-2.1"),
    pin("libfdt1", "1.6.1-4+b1"),
    pin("libffi8", "3.4.4-1"),
    pin("libglib2.0-0", "2.74.6-2+deb12u9"),
    pin("libgmp10", "2:6.2.1+dfsg1-1.1"),
    pin("libgnutls30", "3.7.9-2+deb12u7"),
    pin("libgssapi-krb5-2", KERBEROS),
    pin("libgstreamer-plugins-base1.0-0", "1.22.0-3+deb12u7"),
    pin("libgstreamer1.0-0", "1.22.0-2+deb12u1"),
    pin("libhogweed6", "3.8.1-2"),
    pin("libicu72", "72.1-3+deb12u1"),
    pin("libidn2-0", "2.3.3-1+b1"),
    pin("libjpeg62-turbo", "1:2.1.5-2"),
    pin("libk5crypto3", KERBEROS),
    pin("libkeyutils1", "1.6.3-2"),
    pin("libkrb5-3", KERBEROS),
    pin("libkrb5support0", KERBEROS),
    pin("libldap-2.5-0", "2.5.13+dfsg-5"),
    pin("liblz4-1", "1.9.4-1"),
    pin("libmount1", "2.38.1-5+deb12u3"),
    pin("libnettle8", "3.8.1-2"),
    pin("libnghttp2-14", "1.52.0-1+deb12u3"),
    pin("libnuma1", "2.0.16-1"),
    pin("libopus0", "1.3.1-3"),
    pin("liborc-0.4-0", "1:0.4.33-2"),
    pin("libp11-kit0", "0.24.1-2"),
    pin("libpcre2-8-0", "10.42-1+deb12u2"),
    pin("libpixman-1-0", "0.42.2-1"),
    pin("libpsl5", "0.21.2-1"),
    pin("libreadline8", "8.2-1.3"),
    pin("librtmp1", "2.4+20151223.gitfa8646d.1-2+b2"),
    pin("libsasl2-2", "2.1.28+dfsg-10+deb12u1"),
    pin("libselinux1", "3.4-1+b6"),
    pin("libspice-server1", "0.15.1-1"),
    pin("libssh-4", "0.10.6-0+deb12u3"),
    pin("libssh2-1", "1.10.0-3+deb12u1"),
    pin("libssl3", "3.0.22-1~deb12u2"),
    pin("libstdc++6", "12.2.0-14+deb12u1"),
    pin("libtasn1-6", "4.19.0-2+deb12u1"),
    pin("libtirpc3", "1.3.3+ds-1"),
    pin("libudev1", "252.39-1~deb12u2"),
    pin("libunistring2", "1.0-2"),
    pin("libunwind8", "1.6.2-3"),
    pin("liburing2", "2.3-3"),
    pin("libusb-1.0-0", "2:1.0.26-1"),
    pin("libvirt-clients", LIBVIRT),
    pin("libvirt-daemon", LIBVIRT),
    pin("libvirt-daemon-driver-xen", LIBVIRT),
    pin("libvirt0", LIBVIRT),
    pin("libxml2", "2.9.14+dfsg-1.3~deb12u6"),
    pin("qemu-system-data", "1:7.2+dfsg-7+deb12u18"),
    pin("qemu-system-xen", QEMU),
    pin("qemu-utils", QEMU),
];

/// Programs, and a library that libvirt's daemon loads by its path.
pub(crate) const PROGRAMS: &[&str] = &[
    "usr/bin/qemu-img",
    "usr/bin/virsh",
    "usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_libxl.so",
    "usr/libexec/xen-qemu-system-i386",
    "usr/sbin/libvirtd",
];

/// Folders of data that they read.
pub(crate) const FOLDERS: &[&str] = &["usr/share/libvirt/cpu_map", "usr/share/qemu/keymaps"];

/// The folder with the packages; downloads and unpacks them when they are not there.
pub(crate) fn fetch() -> Result<PathBuf> {
    packages::fetch_set("extras", PACKAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_nothing_is_in_it_twice() {
        let names: Vec<&str> = PACKAGES.iter().map(|package| package.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }
}
