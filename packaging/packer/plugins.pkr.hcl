# Apart from the template, as Packer before 1.7 has its plugins inside and refuses this block.
packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.2.2" # imds_support
    }
  }
}
