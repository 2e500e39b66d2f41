# One base AMI for every app: Docker with BuildKit, logins to ECR by the instance's role, the agent enabled and not started.
#
#   make ami PACKER_ARGS='-only=amazon-ebs.debian-12 -var region=eu-west-1 -var architecture=arm64'

variable "region" {
  type    = string
  default = env("AWS_REGION")
}

variable "architecture" {
  description = "amd64 or arm64. The packages serve both."
  type        = string
  default     = "amd64"
}

variable "deb" {
  description = "The agent's package for Debian and Ubuntu, by `make deb`."
  type        = string
}

variable "rpm" {
  description = "The agent's package for Amazon Linux, by `make rpm`."
  type        = string
}

variable "base_images" {
  description = "Images to have there before the first boot: those that the apps' Dockerfiles begin with."
  type        = list(string)
  default     = []
}

variable "instance_profile" {
  description = "For base images in ECR: a profile whose role may pull them."
  type        = string
  default     = ""
}

variable "subnet" {
  description = "Where to bake; empty for the default VPC."
  type        = string
  default     = ""
}

variable "volume_size" {
  description = "GiB of the root volume. A launch template may ask for more, not for less."
  type        = number
  default     = 16
}

variable "encrypt" {
  description = "Whether the AMI is encrypted: it can be shared with other accounts then only with a key of your own."
  type        = bool
  default     = true
}

variable "kms_key" {
  description = "The key to encrypt it with; empty for the account's own of EBS."
  type        = string
  default     = ""
}

variable "tags" {
  description = "Further tags of the AMI."
  type        = map(string)
  default     = {}
}

locals {
  amazon        = { amd64 = "x86_64", arm64 = "arm64" } # Amazon's names for the architectures
  instance_type = { amd64 = "t3.small", arm64 = "t4g.small" }
  made          = formatdate("YYYYMMDD-hhmmss", timestamp())
}

source "amazon-ebs" "base" {
  region                  = var.region
  instance_type           = local.instance_type[var.architecture]
  iam_instance_profile    = var.instance_profile
  subnet_id               = var.subnet
  temporary_key_pair_type = "ed25519" # Ubuntu 24.04 and Amazon Linux 2023 refuse RSA with SHA-1
  encrypt_boot            = var.encrypt
  kms_key_id              = var.kms_key
  imds_support            = "v2.0" # of the instances made from it, where their launch template says nothing else

  metadata_options { # of the instance that bakes
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
}

build {
  source "amazon-ebs.base" {
    name         = "ubuntu-24.04"
    ami_name     = "adf-ubuntu-24.04-${var.architecture}-${local.made}"
    ssh_username = "ubuntu"
    tags         = merge({ Name = "adf-ubuntu-24.04", Source = "{{ .SourceAMIName }}" }, var.tags)

    source_ami_filter {
      most_recent = true
      owners      = ["099720109477"] # Canonical
      filters     = { name = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-${var.architecture}-server-*" }
    }

    launch_block_device_mappings {
      device_name           = "/dev/sda1"
      volume_size           = var.volume_size
      volume_type           = "gp3"
      delete_on_termination = true
    }
  }

  source "amazon-ebs.base" {
    name         = "debian-12"
    ami_name     = "adf-debian-12-${var.architecture}-${local.made}"
    ssh_username = "admin"
    tags         = merge({ Name = "adf-debian-12", Source = "{{ .SourceAMIName }}" }, var.tags)

    source_ami_filter {
      most_recent = true
      owners      = ["136693071363"] # Debian
      filters     = { name = "debian-12-${var.architecture}-*" }
    }

    launch_block_device_mappings {
      device_name           = "/dev/xvda"
      volume_size           = var.volume_size
      volume_type           = "gp3"
      delete_on_termination = true
    }
  }

  source "amazon-ebs.base" {
    name         = "amazon-linux-2023"
    ami_name     = "adf-amazon-linux-2023-${var.architecture}-${local.made}"
    ssh_username = "ec2-user"
    tags         = merge({ Name = "adf-amazon-linux-2023", Source = "{{ .SourceAMIName }}" }, var.tags)

    source_ami_filter {
      most_recent = true
      owners      = ["137112412989"] # Amazon
      filters     = { name = "al2023-ami-2023.*-kernel-6.*-${local.amazon[var.architecture]}" }
    }

    launch_block_device_mappings {
      device_name           = "/dev/xvda"
      volume_size           = var.volume_size
      volume_type           = "gp3"
      delete_on_termination = true
    }
  }

  provisioner "file" {
    except      = ["amazon-ebs.amazon-linux-2023"]
    source      = var.deb
    destination = "/tmp/adf-agent.deb"
  }

  provisioner "file" {
    only        = ["amazon-ebs.amazon-linux-2023"]
    source      = var.rpm
    destination = "/tmp/adf-agent.rpm"
  }

  provisioner "shell" {
    execute_command  = "sudo env {{ .Vars }} bash {{ .Path }}"
    environment_vars = ["BASE_IMAGES=${join(" ", var.base_images)}"]
    scripts          = ["${path.root}/install.sh", "${path.root}/clean.sh", "${path.root}/check.sh"]
  }
}
