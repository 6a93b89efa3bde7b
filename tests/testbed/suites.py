"""What each nested host is made of: Debian suites, packages, kernel modules."""

import dataclasses
from typing import Final

__all__ = ["PYTHON_PACKAGES", "SUITES", "Suite"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One Debian suite, which brings one kernel, bcc and QEMU."""

    name: str
    """Code name, as apt knows it."""
    kernel: str
    """Kernel release that it is known to have ("6.1")."""
    extra_packages: tuple[str, ...] = ()
    """Packages that only this suite has, or only this suite needs."""


SUITES: Final = {
    suite.name: suite
    for suite in (
        Suite(name="bookworm", kernel="6.1"),
        Suite(name="trixie", kernel="6.12"),
    )
}

PYTHON_PACKAGES: Final = ("capstone", "numpy", "pyarrow", "pyelftools", "pyroute2")
"""What vtrace itself imports in the nested host, as wheels for its Python."""

PACKAGES: Final = (
    # A system without package manager, init or udev.
    "base-files",
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "findutils",
    "grep",
    "hostname",
    "kmod",
    "less",
    "mawk",
    "mount",
    "ncurses-base",
    "procps",
    "psmisc",
    "sed",
    "tar",
    "util-linux",
    # The network and what watches it.
    "ethtool",
    "iproute2",
    "nftables",
    "tcpdump",
    # Tracing.
    "bpftool",
    "bpftrace",
    "linux-headers-amd64",
    "linux-perf",
    "python3",
    "python3-bpfcc",
    "strace",
    "trace-cmd",
    # Guests.
    "linux-image-amd64",
    "linux-image-cloud-amd64",
    "qemu-guest-agent",
    "qemu-system-x86",
)

UNWANTED: Final = (
    "boot/System.map-*",
    "boot/vmlinuz-*",
    "usr/bin/*gcc*",
    "usr/bin/*lto-dump*",
    "usr/bin/perl*",
    "usr/bin/qemu-storage-daemon",
    "usr/bin/qemu-system-i386",
    "usr/bin/qemu-system-x86_64-microvm",
    "usr/lib/firmware",
    "usr/lib/gcc",
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/lib*san.so*",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/lib/x86_64-linux-gnu/systemd",
    "usr/libexec/gcc",
    "usr/libexec/qemu-system-i386",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/initramfs-tools",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl*",
    "var/cache/apt",
    "var/lib/apt",
)
"""Globs that leave the image: nothing in the nested host reads them."""

UNWANTED_WHEEL_PARTS: Final = (
    "*/tests",
    "numpy/*/tests",
    "pyarrow/include",
    "pyroute2/*/tests",
)
"""Globs of the wheels that leave it; an import test follows."""

KEPT_MODULES: Final = (
    "arch/x86/",
    "block/",
    "crypto/",
    "drivers/ata/",
    "drivers/block/",
    "drivers/char/",
    "drivers/iommu/",
    "drivers/net/bonding/",
    "drivers/net/ethernet/amd/pcnet32",
    "drivers/net/ethernet/intel/e1000/",
    "drivers/net/ethernet/intel/e1000e/",
    "drivers/net/ethernet/intel/igb/",
    "drivers/net/ethernet/realtek/",
    "drivers/net/ipvlan/",
    "drivers/net/mii",
    "drivers/net/macvlan",
    "drivers/net/macvtap",
    "drivers/net/mdio/",
    "drivers/net/net_failover",
    "drivers/net/phy/",
    "drivers/net/tap",
    "drivers/net/team/",
    "drivers/net/tun",
    "drivers/net/veth",
    "drivers/net/dummy",
    "drivers/net/ifb",
    "drivers/net/virtio_net",
    "drivers/net/vmxnet3/",
    "drivers/net/vxlan/",
    "drivers/nvme/",
    "drivers/ptp/",
    "drivers/pps/",
    "drivers/i2c/algos/",
    "drivers/dca/",
    "drivers/scsi/scsi",
    "drivers/scsi/sd_mod",
    "drivers/scsi/sr_mod",
    "drivers/scsi/virtio_scsi",
    "drivers/cdrom/",
    "drivers/target/target_core_mod",
    "drivers/usb/common/",
    "drivers/usb/core/",
    "drivers/usb/host/",
    "drivers/usb/storage/usb-storage",
    "drivers/vdpa/",
    "drivers/vfio/",
    "drivers/vhost/",
    "drivers/virtio/",
    "fs/9p/",
    "fs/ext4/",
    "fs/fat/",
    "fs/fscache/",
    "fs/fuse/",
    "fs/jbd2/",
    "fs/mbcache",
    "fs/netfs/",
    "fs/nls/",
    "fs/overlayfs/",
    "lib/",
    "net/",
    "virt/",
)
"""Beginnings of module paths that the image keeps."""

HOST_MODULES: Final = (
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",
    "crc32c-intel",
    "crc32c_intel",
    "ext4",
)
"""Modules that the nested host needs before its root disk is mounted."""

SMALL_MODULES: Final = (
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "virtio_balloon",
    "virtio_rng",
    "af_packet",
    "8021q",
)
"""Modules of a guest with the small (cloud) kernel."""

FULL_MODULES: Final = (
    *SMALL_MODULES,
    "e1000",
    "e1000e",
    "igb",
    "8139cp",
    "8139too",
    "r8169",
    "pcnet32",
    "vmxnet3",
    "ata_piix",
    "ahci",
    "nvme",
    "sr_mod",
    "xhci_pci",
    "ehci_pci",
    "uhci_hcd",
    "usb-storage",
    "vmw_vsock_virtio_transport",
)
"""Modules of a guest with the full kernel; drives emulated devices too."""
