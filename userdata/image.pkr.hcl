# Bakes images of Amazon Linux 2023 with hanat in them, for both architectures: their NATs fetch
# nothing at boot. Run it where the archives of a release are, once:
#
#   packer init image.pkr.hcl
#   packer build -var version=0.1.0 -var sha256_arm64=… -var sha256_x86_64=… image.pkr.hcl
#
# With -only=amazon-ebs.arm64 (or .x86_64) it bakes one, and the other sum may be anything.

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "~> 1.3"
    }
  }
}

variable "version" {
  type        = string
  description = "Of the archives, which are expected in this folder under the names that make dist gives them."
}

variable "sha256_arm64" {
  type        = string
  description = "Of hanat-…-aarch64-unknown-linux-gnu.tar.gz, as SHA256SUMS has it."
}

variable "sha256_x86_64" {
  type        = string
  description = "Of hanat-…-x86_64-unknown-linux-gnu.tar.gz."
}

variable "region" {
  type        = string
  description = "Where the images are baked."
  default     = "us-east-1"
}

variable "subnet" {
  type        = string
  description = "A public subnet to bake in; the default VPC's where it is empty."
  default     = ""
}

locals {
  stamp = formatdate("YYYYMMDDhhmmss", timestamp())
  archives = {
    arm64  = "hanat-${var.version}-aarch64-unknown-linux-gnu.tar.gz"
    x86_64 = "hanat-${var.version}-x86_64-unknown-linux-gnu.tar.gz"
  }
  sums = {
    arm64  = var.sha256_arm64
    x86_64 = var.sha256_x86_64
  }
}

# The images that the templates take, too.
data "amazon-parameterstore" "arm64" {
  region = var.region
  name   = "/aws/service/ami-amazon-linux-latest/al2023-ami-minimal-kernel-default-arm64"
}

data "amazon-parameterstore" "x86_64" {
  region = var.region
  name   = "/aws/service/ami-amazon-linux-latest/al2023-ami-minimal-kernel-default-x86_64"
}

source "amazon-ebs" "hanat" {
  region       = var.region
  subnet_id    = var.subnet
  ssh_username = "ec2-user"

  ssh_clear_authorized_keys = true

  imds_support = "v2.0"
  encrypt_boot = true

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  tags = {
    Name    = "hanat-${var.version}"
    Version = var.version
  }
}

build {
  source "amazon-ebs.hanat" {
    name          = "arm64"
    ami_name      = "hanat-${var.version}-arm64-${local.stamp}"
    instance_type = "t4g.small"
    source_ami    = data.amazon-parameterstore.arm64.value
  }

  source "amazon-ebs.hanat" {
    name          = "x86_64"
    ami_name      = "hanat-${var.version}-x86_64-${local.stamp}"
    instance_type = "t3.small"
    source_ami    = data.amazon-parameterstore.x86_64.value
  }

  provisioner "file" {
    source      = local.archives[source.name]
    destination = "/tmp/hanat.tar.gz"
  }

  # Checked before it is unpacked. Nothing is started: the units do their work from the next boot
  # on, which is the first of an instance of the image.
  provisioner "shell" {
    environment_vars = ["SHA256=${local.sums[source.name]}"]
    execute_command  = "sudo env {{ .Vars }} sh -eu {{ .Path }}"
    inline = [
      "echo \"$SHA256  /tmp/hanat.tar.gz\" | sha256sum --check --quiet",
      "python3 -m tarfile --extract /tmp/hanat.tar.gz /",
      "rm /tmp/hanat.tar.gz",
      "systemctl enable hanat-claim.service hanat-watch.service",
      "cloud-init clean --logs",
      "truncate --size 0 /etc/machine-id",
    ]
  }
}
