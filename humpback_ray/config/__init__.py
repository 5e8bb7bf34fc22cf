"""What a user writes: settings decide the result, placement says where and how it runs."""
