"""What has a fixed place on a PC: ports, memory, interrupt lines of its old devices.

Sources:

* PC/AT: IBM Personal Computer AT Technical Reference (1984), I/O address map; all PCs keep it.
* 8250: National Semiconductor 16550 and the BIOS data area's COM and LPT bases.
* ATA: ANSI X3.221, command and control block at the compatibility addresses (PCI IDE controller
  specification 1.0, section 2.0).
* PCI: PCI Local Bus 3.0, section 3.2.2.3.2: CONFIG_ADDRESS, CONFIG_DATA; 0xcf9 of the chipsets.
* APIC: Intel SDM volume 3, chapter 11; 82093AA I/O APIC. HPET: IA-PC HPET 1.0a.
* TIS: TCG PC Client TPM Interface Specification.
* QEMU: docs/specs (fw_cfg, ACPI hotplug), hw/acpi, hw/i386, hw/char/debugcon: what it adds.
* SeaBIOS: src/fw/dev-pci.h, src/config.h: where PC guests have ACPI and SMBus from. Other
  firmware may choose otherwise; the PIIX4's ACPI is then at 0xb000 (OVMF).
"""

from __future__ import annotations

from typing import Final

__all__ = ["LINES", "MEMORY", "PORTS"]

PORTS: Final[tuple[tuple[int, int, str, str], ...]] = (
    (0x000, 0x00F, "DMA", "controller 1"),  # PC/AT
    (0x020, 0x021, "PIC", "first"),  # PC/AT
    (0x040, 0x043, "PIT", ""),  # PC/AT
    (0x060, 0x060, "i8042", "data"),  # PC/AT
    (0x061, 0x061, "PIT", "speaker"),  # PC/AT
    (0x064, 0x064, "i8042", "status"),  # PC/AT
    (0x070, 0x071, "RTC", ""),  # PC/AT
    (0x080, 0x080, "debug port", "POST code, Linux's I/O delay"),  # PC/AT
    (0x081, 0x08F, "DMA", "pages"),  # PC/AT
    (0x092, 0x092, "A20 gate", ""),  # PC/AT (PS/2 system control port A)
    (0x0A0, 0x0A1, "PIC", "second"),  # PC/AT
    (0x0B2, 0x0B3, "ACPI", "SMI command"),  # PIIX4, ICH9
    (0x0C0, 0x0DF, "DMA", "controller 2"),  # PC/AT
    (0x0E9, 0x0E9, "debug port", "debugcon"),  # QEMU
    (0x0F0, 0x0F1, "FPU", ""),  # PC/AT
    (0x170, 0x177, "IDE secondary", "command"),  # ATA
    (0x1CE, 0x1D0, "VGA", "Bochs VBE"),  # QEMU docs/specs/standard-vga
    (0x1F0, 0x1F7, "IDE primary", "command"),  # ATA
    (0x278, 0x27F, "LPT2", ""),  # 8250
    (0x2E8, 0x2EF, "COM4", ""),  # 8250
    (0x2F8, 0x2FF, "COM2", ""),  # 8250
    (0x376, 0x376, "IDE secondary", "control"),  # ATA
    (0x378, 0x37F, "LPT1", ""),  # 8250
    (0x3B4, 0x3B5, "VGA", ""),  # PC/AT
    (0x3BA, 0x3BA, "VGA", ""),  # PC/AT
    (0x3C0, 0x3DF, "VGA", ""),  # PC/AT
    (0x3E8, 0x3EF, "COM3", ""),  # 8250
    (0x3F0, 0x3F5, "floppy", ""),  # PC/AT
    (0x3F6, 0x3F6, "IDE primary", "control"),  # ATA
    (0x3F7, 0x3F7, "floppy", "direction"),  # PC/AT
    (0x3F8, 0x3FF, "COM1", ""),  # 8250
    (0x402, 0x402, "debug port", "firmware's log"),  # SeaBIOS, QEMU isa-debugcon
    (0x4D0, 0x4D1, "PIC", "edge or level"),  # PCI chipsets (ELCR)
    (0x501, 0x501, "debug port", "isa-debug-exit"),  # QEMU
    (0x510, 0x51B, "fw_cfg", ""),  # QEMU docs/specs/fw_cfg
    (0x600, 0x63F, "ACPI", "PM registers"),  # SeaBIOS, PIIX4 and ICH9
    (0x700, 0x73F, "SMBus", ""),  # SeaBIOS
    (0xA00, 0xA17, "ACPI", "memory hotplug"),  # QEMU
    (0xAE00, 0xAE17, "ACPI", "PCI hotplug"),  # QEMU docs/specs/acpi_pci_hotplug, PIIX4
    (0xAF00, 0xAF1F, "ACPI", "CPU hotplug"),  # QEMU docs/specs/acpi_cpu_hotplug, PIIX4
    (0xAFE0, 0xAFE3, "ACPI", "GPE"),  # QEMU, PIIX4
    (0xB000, 0xB03F, "ACPI", "PM registers"),  # PIIX4 under OVMF
    (0xCC0, 0xCD7, "ACPI", "PCI hotplug"),  # QEMU, ICH9
    (0xCD8, 0xCF7, "ACPI", "CPU hotplug"),  # QEMU, ICH9
    (0xCF8, 0xCFF, "PCI configuration", ""),  # PCI
    (0xCF9, 0xCF9, "reset control", ""),  # PIIX3, ICH9
    (0x5658, 0x5659, "vmport", ""),  # QEMU hw/i386/vmport
)
"""First port, last port, device, part."""

MEMORY: Final[tuple[tuple[int, int, str, str], ...]] = (
    (0x000A_0000, 0x000B_FFFF, "VGA", "window"),  # PC/AT
    (0xFEC0_0000, 0xFEC0_0FFF, "IOAPIC", ""),  # APIC
    (0xFED0_0000, 0xFED0_03FF, "HPET", ""),  # HPET
    (0xFED1_C000, 0xFED1_FFFF, "chipset", "root complex registers"),  # ICH9
    (0xFED4_0000, 0xFED4_4FFF, "TPM", ""),  # TIS
    (0xFEE0_0000, 0xFEE0_0FFF, "LAPIC", ""),  # APIC
    (0xFFC0_0000, 0xFFFF_FFFF, "firmware", "flash"),  # QEMU hw/i386/pc_sysfw
)
"""First address, last address, device, part."""

LINES: Final[dict[int, str]] = {
    0: "PIT",  # PC/AT
    1: "i8042",  # PC/AT: keyboard
    2: "PIT",  # I/O APIC pin of the PIT (ACPI interrupt source override)
    3: "COM2",  # 8250
    4: "COM1",  # 8250
    6: "floppy",  # PC/AT
    7: "LPT1",  # 8250
    8: "RTC",  # PC/AT
    9: "ACPI",  # PIIX4, ICH9: SCI
    12: "i8042",  # PC/AT: mouse
    13: "FPU",  # PC/AT
    14: "IDE primary",  # ATA
    15: "IDE secondary",  # ATA
}
"""GSI of an ISA interrupt -> device. 5, 10 and 11 are free for PCI."""
